import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.config import AgentConfig, parse_config
from deepfusion_edge.errors import UsageError

pytestmark = pytest.mark.processor

FOLDER = Path("/etc/line")
SOURCE = {"kind": "folder", "name": "cam", "path": "frames"}
MINIMAL = {"state_dir": "state", "sources": [SOURCE]}


def parse(value) -> AgentConfig:
    return parse_config(json.dumps(value).encode(), FOLDER)


def test_defaults_and_paths_relative_to_the_files_folder():
    config = parse(
        MINIMAL
        | {
            "mqtt": {
                "username": "u",
                "password_file": "secret",
                "tls": {"ca_file": "/abs/ca.pem", "cert_file": "c.pem", "key_file": "k.pem"},
            }
        }
    )
    assert config.state_dir == "/etc/line/state"
    assert config.sources[0].path == "/etc/line/frames"
    assert config.mqtt.password_file == str(FOLDER / "secret")
    assert config.mqtt.tls is not None
    assert config.mqtt.tls.ca_file == "/abs/ca.pem"
    assert config.mqtt.tls.key_file == "/etc/line/k.pem"
    assert (config.mqtt.host, config.mqtt.port, config.mqtt.protocol) == ("127.0.0.1", 1883, "5")
    assert config.sources[0].back_pressure == "wait"
    assert config.model.seed is None


CAMERA = {"kind": "camera", "name": "cam"}
HIDDEN = {"password_env": "CAMERA_PASSWORD"}
TOPIC = {"kind": "mqtt", "name": "a", "topic": "a"}
URL = {**CAMERA, "url": "rtsp://host/live"}


def camera(**keys):
    return {"sources": [CAMERA | keys]}


def test_paths_of_every_source_are_resolved_and_urls_are_left_alone():
    sources = [
        {"kind": "video", "name": "a", "path": "a.mp4"},
        {**URL, "name": "b", "username": "u", "password_file": "secret"},
        {"kind": "camera", "name": "c", "device": 0},
        {"kind": "camera", "name": "d", "device": "/dev/v4l/by-id/usb-a_b-video-index0"},
        {"kind": "camera", "name": "e", "pipeline": "v4l2src ! appsink"},
        {"kind": "mqtt", "name": "f", "topic": "line/camera"},
    ]
    config = parse(MINIMAL | {"sources": sources})
    assert config.sources[0].path == "/etc/line/a.mp4"
    assert config.sources[1].password_file == str(FOLDER / "secret")
    assert config.sources[1].url == "rtsp://host/live"
    assert [s.back_pressure for s in config.sources] == ["wait", *["drop-oldest"] * 5]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (camera(), "exactly one"),
        (camera(device=0, url="rtsp://h/"), "device and url"),
        (camera(device="/etc/passwd"), "below /dev"),
        (camera(device="/dev/../etc/passwd"), "below /dev"),
        (camera(device=-1), "device"),
        (camera(url="file:///etc/passwd"), "schemes"),
        (camera(url="/etc/passwd"), "schemes"),
        (camera(url="concat:a|b"), "schemes"),
        (camera(url="RTSP://host/ a"), "schemes"),
        (camera(url="rtsp:///live"), "schemes"),
        (camera(url="rtsp://a:hidden@host/live"), "user name or password"),
        (camera(url="rtsp://a@host"), "user name or password"),
        (camera(pipeline="rtspsrc location=rtsp://a:hidden@h ! appsink"), "user name or password"),
        (camera(url="rtsp://h", **HIDDEN), "no username"),
        (camera(url="rtsp://h", username="u", password_file="a", **HIDDEN), "both set"),  # noqa: S106
        (camera(device=0, back_pressure="drop"), "back_pressure"),
        ({"sources": [{**TOPIC, "topic": "a/+"}]}, "sources[0].topic"),
        (
            {"sources": [{"kind": "mqtt", "name": "a", "topic": "a", "back_pressure": "wait"}]},
            "wait",
        ),
        ({"sources": [{"kind": "ftp", "name": "a"}]}, "ftp"),
        ({"model": {"require_gpu": True}}, "require_gpu"),
        ({"model": {"watchdog_s": 0}}, "watchdog_s"),
        ({"typo": 1}, "typo"),
        ({"mqtt": {"prot": 1}}, "prot"),
        ({"mqtt": {"port": 0}}, "mqtt.port"),
        ({"mqtt": {"port": "1883"}}, "mqtt.port"),
        ({"mqtt": {"protocol": "4"}}, "mqtt.protocol"),
        ({"mqtt": {"host": "a\0b"}}, "mqtt.host"),
        ({"mqtt": {"client_id": "a/b"}}, "mqtt.client_id"),
        ({"mqtt": {"client_id": ""}}, "mqtt.client_id"),
        ({"mqtt": {"client_id": "x" * 201}}, "mqtt.client_id"),
        ({"mqtt": {"base_topic": "a/+"}}, "mqtt.base_topic"),
        ({"mqtt": {"base_topic": "a/#"}}, "mqtt.base_topic"),
        ({"mqtt": {"base_topic": "$SYS"}}, "mqtt.base_topic"),
        ({"mqtt": {"base_topic": "a//b"}}, "mqtt.base_topic"),
        ({"mqtt": {"base_topic": "a\0b"}}, "mqtt.base_topic"),
        ({"mqtt": {"base_topic": "a/" * 8 + "a"}}, "mqtt.base_topic"),
        ({"mqtt": {"password_env": "P"}}, "mqtt.username"),
        ({"mqtt": {"username": "u", "password_env": "P", "password_file": "f"}}, "password_file"),
        ({"mqtt": {"tls": {"cert_file": "c"}}}, "mqtt.tls.key_file"),
        ({"mqtt": {"tls": {"ca_file": "c\0"}}}, "mqtt.tls.ca_file"),
        ({"sources": []}, "sources"),
        ({"sources": [SOURCE, SOURCE]}, "sources[1].name"),
        ({"sources": [SOURCE | {"name": "a+b"}]}, "sources[0].name"),
        ({"sources": [SOURCE | {"kind": "camera"}]}, "path"),
        ({"sources": [SOURCE | {"mode": "loop"}]}, "mode"),
        ({"sources": [SOURCE | {"back_pressure": "drop-oldest"}]}, "back_pressure"),
        ({"sources": [SOURCE | {"path": "a\0"}]}, "sources[0].path"),
        ({"model": {"members": 0}}, "model.members"),
        ({"model": {"seed": 2**53}}, "model.seed"),
        ({"outbox": {"max_bytes": 1}}, "outbox.max_bytes"),
        ({"run": {"drain_timeout_s": -1}}, "run.drain_timeout_s"),
        ({"state_dir": "a\0"}, "state_dir"),
    ],
)
def test_a_broken_rule_names_its_field(change, names):
    with pytest.raises(UsageError) as caught:
        parse(MINIMAL | change)
    assert names in str(caught.value)
    assert "\0" not in str(caught.value)
    assert "hidden" not in str(caught.value)  # the passwords above


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[" * 100_000, b"{" * 5, b'{"a":' * 50_000, b"NaN", b" " * (2**20 + 1)],
)
def test_bytes_that_are_no_configuration(data):
    with pytest.raises(UsageError):
        parse_config(data, FOLDER)


def test_a_lone_surrogate_is_no_topic():
    text = json.dumps(MINIMAL | {"mqtt": {"client_id": "\ud800"}}).encode()
    with pytest.raises(UsageError):
        parse_config(text, FOLDER)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = dict.fromkeys(AgentConfig.__struct_fields__, JUNK)


@settings(deadline=None, max_examples=150)
@given(
    JUNK
    | st.fixed_dictionaries({}, optional=FIELDS)
    | st.builds(lambda o: MINIMAL | o, st.fixed_dictionaries({}, optional=FIELDS))
)
def test_random_json_is_a_configuration_or_a_usage_error(value):
    try:
        config = parse(value)
    except UsageError:
        return
    assert isinstance(config, AgentConfig)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_random_bytes_are_a_usage_error(data):
    with pytest.raises(UsageError):
        parse_config(data, FOLDER)


def test_no_field_can_hold_a_password():
    fields = msgspec.structs.fields(AgentConfig)
    mqtt = next(f for f in fields if f.name == "mqtt").type
    assert "password" not in mqtt.__struct_fields__


@pytest.mark.parametrize("page", ["agent.md", "sources.md"])
def test_the_examples_of_the_documents_are_valid(page):
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    example = text.split("```json\n")[1].split("```")[0]
    if page == "sources.md":
        example = '{"state_dir": "state", ' + example + "}"
    assert parse_config(example.encode(), FOLDER).sources


@pytest.mark.parametrize(
    ("mqtt", "field"),
    [
        ({"sparkplug": {"group_id": "plant"}}, "mqtt.sparkplug is set"),
        ({"profile": "sparkplug", "sparkplug": {"group_id": "a/b"}}, "mqtt.sparkplug.group_id"),
        ({"profile": "sparkplug", "sparkplug": {"edge_node_id": "+"}}, "edge_node_id"),
        ({"profile": "sparkplug", "sparkplug": {"primary_host": "#"}}, "primary_host"),
        ({"profile": "sparkplug", "home_assistant": {}}, "mqtt.home_assistant"),
        ({"home_assistant": {"discovery_prefix": "a//b"}}, "discovery_prefix"),
        ({"profile": "both"}, "profile"),
    ],
)
def test_profiles_that_contradict_or_break_a_topic(mqtt, field):
    with pytest.raises(UsageError, match=field):
        parse(MINIMAL | {"mqtt": mqtt})


def test_profiles():
    config = parse(MINIMAL | {"mqtt": {"profile": "sparkplug", "sparkplug": {"group_id": "plant"}}})
    assert (config.mqtt.profile, config.mqtt.sparkplug.group_id) == ("sparkplug", "plant")
    config = parse(MINIMAL | {"mqtt": {"home_assistant": {}}})
    assert config.mqtt.home_assistant.discovery_prefix == "homeassistant"


def with_commands(**sections):
    source = {"kind": "folder", "name": "cam", "path": "frames"}
    return json.dumps({"state_dir": "state", "sources": [source], **sections}).encode()


def test_nobody_commands_unless_a_key_is_named():
    config = parse_config(with_commands(), Path("/etc/agent"))
    assert config.commands.keys == ()
    assert config.commands.snapshot_dir is None
    assert (config.updates.hosts, config.updates.http_hosts) == (None, ())


def test_paths_of_commands_count_from_the_files_folder():
    sections = {
        "commands": {
            "keys": [{"file": "operator.pub", "actions": ["restart"]}],
            "snapshot_dir": "snapshots",
        },
        "updates": {"ca_file": "ca.pem"},
    }
    config = parse_config(with_commands(**sections), Path("/etc/agent"))
    assert config.commands.keys[0].file == "/etc/agent/operator.pub"
    assert config.commands.snapshot_dir == "/etc/agent/snapshots"
    assert config.updates.ca_file == "/etc/agent/ca.pem"


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"commands": {"keys": [{"file": "a.pub", "actions": []}]}}, "length >= 1"),
        ({"commands": {"keys": [{"file": "a.pub", "actions": ["shell"]}]}}, "Invalid enum value"),
        ({"commands": {"keys": [{"actions": ["restart"]}]}}, "missing required field `file`"),
        ({"commands": {"keys": [{"file": "a\0", "actions": ["restart"]}]}}, "NUL"),
        ({"commands": {"enabled": True}}, "unknown field"),
        ({"updates": {"http_hosts": ["http://a"]}}, "regex"),
        ({"updates": {"probation": {"frames": 1}}}, ">= 10"),
    ],
)
def test_sections_of_commands_that_are_refused(section, text):
    with pytest.raises(UsageError, match=text):
        parse_config(with_commands(**section), Path("/etc/agent"))
