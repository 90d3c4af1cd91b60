"""The agent's configuration: one frozen struct a section, unknown keys refused. Pure.

``parse_config(bytes, folder)`` turns JSON or TOML into an :class:`AgentConfig`; relative paths
count from the folder of the configuration file. A password is never part of it, only the place to
read it.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from deepfusion_edge.config_commands import Commands, Updates
from deepfusion_edge.config_source import (
    CameraSource,
    FolderSource,
    MqttSource,
    PathText,
    Seconds,
    SourceSection,
    VideoSource,
    check_source,
    resolve_source,
)
from deepfusion_edge.erosion import MAX_SEED
from deepfusion_edge.errors import UsageError
from deepfusion_edge.topics import check_level, check_text, check_topic

MAX_CONFIG_BYTES = 2**20
_SEE = "correct the configuration file"

__all__ = [
    "AgentConfig",
    "Alerts",
    "CameraSource",
    "FolderSource",
    "HomeAssistant",
    "Http",
    "Model",
    "Mqtt",
    "MqttSource",
    "OutboxLimits",
    "Run",
    "SourceSection",
    "Sparkplug",
    "Tls",
    "VideoSource",
    "parse_config",
]

_NAME = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """How the bundle's graph is run.

    Attributes:
        members: K, erosion members a frame; None takes the bundle's. A number runs as many for
            every frame, without a policy.
        policy: whether the bundle's adaptive policy, if it has one, may run fewer members.
        threads: of the runtime; 0 lets the runtime choose.
        runtime: ``ort`` (ONNX Runtime on the CPU), ``trt`` (TensorRT on the GPU, or no run at all)
            or ``auto`` (TensorRT where it works, otherwise the CPU and an alert).
        require_gpu: refuse to run on the CPU, whatever ``auto`` would fall back to.
        watchdog_s: an inference that takes longer is stuck: an alert, and the process ends itself
            with exit code 9 to be started again.
        seed: None draws a fresh secret seed a frame; a number makes runs repeat exactly, and lets
            an attacker who learns it predict the members: for tests and benchmarks.
    """

    members: Annotated[int, Meta(ge=1, le=64)] | None = None
    policy: bool = True
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    runtime: Literal["ort", "trt", "auto"] = "ort"
    require_gpu: bool = False
    watchdog_s: Annotated[float, Meta(ge=0.1, le=3600.0)] = 30.0
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] | None = None


class Tls(Struct, frozen=True, forbid_unknown_fields=True):
    """TLS 1.2 or newer to the broker; PEM files.

    Attributes:
        ca_file: who may have signed the broker's certificate; None: the system's authorities.
        cert_file, key_file: this client's own certificate, if the broker asks for one.
    """

    ca_file: PathText | None = None
    cert_file: PathText | None = None
    key_file: PathText | None = None


class Sparkplug(Struct, frozen=True, forbid_unknown_fields=True):
    """Who the agent is among Sparkplug's nodes; each of its sources is a device.

    Attributes:
        group_id, edge_node_id: together unique; the node is called like the client by default.
        primary_host: id of the host without which nothing is sent; None: whoever listens.
    """

    group_id: str = "deepfusion"
    edge_node_id: str | None = None
    primary_host: str | None = None


class HomeAssistant(Struct, frozen=True, forbid_unknown_fields=True):
    """Lets Home Assistant find the agent.

    Attributes:
        discovery_prefix: what Home Assistant listens to.
    """

    discovery_prefix: str = "homeassistant"


class Mqtt(Struct, frozen=True, forbid_unknown_fields=True):
    """The broker and how events are named there.

    Attributes:
        profile: ``json`` (QoS 1, a retained state, a session that outlives a connection) or
            ``sparkplug`` (an edge node of Sparkplug B 3.0).
        sparkplug: for the profile of that name.
        home_assistant: announce the agent to Home Assistant; for the profile ``json``.
        client_id: this agent's name: unique at the broker, and a level of its topics.
        base_topic: what topics begin with: ``<base_topic>/<client_id>/...``.
        password_file, password_env: where the password is read from, at most one of them.
        keepalive_s: a dead connection is noticed within twice this time.
        state_interval_s: how often the retained state, with its counters, is renewed.
        max_in_flight: events sent and not yet confirmed.
    """

    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    profile: Literal["json", "sparkplug"] = "json"
    sparkplug: Sparkplug = Sparkplug()
    home_assistant: HomeAssistant | None = None
    client_id: str = "deepfusion-agent"
    base_topic: str = "deepfusion"
    username: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    password_file: PathText | None = None
    password_env: (
        Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)] | None
    ) = None
    keepalive_s: Annotated[int, Meta(ge=2, le=3600)] = 30
    protocol: Literal["3.1.1", "5"] = "5"
    tls: Tls | None = None
    state_interval_s: Seconds = 60.0
    max_in_flight: Annotated[int, Meta(ge=1, le=1000)] = 100


class OutboxLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept while the broker is away; beyond it the oldest events are dropped.

    Attributes:
        max_bytes: of the database file; its log and the reserve for a full disk add about 4 MiB.
        ttl_s: events older than this are dropped instead of sent; None: never.
    """

    max_events: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000
    max_bytes: Annotated[int, Meta(ge=2**17, le=2**40)] = 256 * 2**20
    ttl_s: Annotated[float, Meta(gt=0.0)] | None = 7 * 86_400.0


class Run(Struct, frozen=True, forbid_unknown_fields=True):
    """How a run ends.

    Attributes:
        drain_timeout_s: how long, after the last frame, events may still be delivered.
    """

    drain_timeout_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 30.0


class Alerts(Struct, frozen=True, forbid_unknown_fields=True):
    """How often somebody is told of the same trouble.

    Attributes:
        repeat_s: a source whose frames fail one after another (kinds ``unreadable`` and ``model``)
            has one alert at once, then one for all of this time; 0: one for each frame.
    """

    repeat_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 60.0


class Http(Struct, frozen=True, forbid_unknown_fields=True):
    """Status page, ``/metrics`` and ``/healthz``; without this section no port is opened.

    Attributes:
        host: IP address to listen on. Whoever reaches it sees frames and figures, without a
            password: leave it at the device itself and go through SSH or a proxy with a log-in.
        port: where it listens; 0 takes any free one and says which in the log.
        names: names under which browsers may ask for the page, besides ``localhost`` and any IP
            address; others are refused, so that no web site can read it through a visitor.
        thumbnails: whether the page shows small pictures of the last frames.
        stale_s: a source from which the agent heard nothing for so long makes it unhealthy.
    """

    host: Annotated[str, Meta(min_length=2, max_length=45)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 9464
    names: Annotated[tuple[Annotated[str, Meta(pattern=_NAME)], ...], Meta(max_length=32)] = ()
    thumbnails: bool = True
    stale_s: Seconds = 60.0


class AgentConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything ``deepfusion-agent run`` needs to know; paths are absolute after parsing."""

    state_dir: PathText
    sources: Annotated[tuple[SourceSection, ...], Meta(min_length=1, max_length=64)]
    mqtt: Mqtt = Mqtt()
    model: Model = Model()
    outbox: OutboxLimits = OutboxLimits()
    run: Run = Run()
    alerts: Alerts = Alerts()
    commands: Commands = Commands()
    updates: Updates = Updates()
    http: Http | None = None


def parse_config(
    data: bytes, folder: Path, *, form: Literal["json", "toml"] = "json"
) -> AgentConfig:
    """Read a configuration.

    Args:
        data: at most 1 MiB.
        folder: where relative paths count from.
        form: how it is written; TOML has comments.

    Raises:
        UsageError: naming the field and the rule it breaks.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(
            f"configuration has {len(data)} bytes, at most {MAX_CONFIG_BYTES} are read", _SEE
        )
    try:
        decode = msgspec.toml.decode if form == "toml" else msgspec.json.decode
        config = decode(data, type=AgentConfig)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        reason = str(error).replace("`$.", "`").replace("`$`", "the top level")
        raise UsageError(f"configuration: {reason}", _SEE) from error
    _check(config)
    return _resolve(config, folder)


def _check(config: AgentConfig) -> None:
    mqtt = config.mqtt
    check_level("mqtt.client_id", mqtt.client_id)
    check_topic("mqtt.base_topic", mqtt.base_topic)
    _check_profile(mqtt)
    if mqtt.password_file is not None and mqtt.password_env is not None:
        raise UsageError("mqtt.password_file and mqtt.password_env are both set", "set one of them")
    if mqtt.username is None and (mqtt.password_file or mqtt.password_env):
        raise UsageError("mqtt has a password but no mqtt.username", "set mqtt.username")
    if mqtt.tls is not None and (mqtt.tls.cert_file is None) != (mqtt.tls.key_file is None):
        raise UsageError("mqtt.tls.cert_file and mqtt.tls.key_file go together", "set both or none")
    check_text("mqtt.host", mqtt.host)
    if config.model.require_gpu and config.model.runtime == "ort":
        raise UsageError(
            "model.require_gpu is true, but model.runtime 'ort' runs on the CPU",
            "set model.runtime to 'trt' or 'auto'",
        )
    _check_address("http.host", config.http.host if config.http else "127.0.0.1")
    names: set[str] = set()
    for at, source in enumerate(config.sources):
        check_level(f"sources[{at}].name", source.name)
        if source.name in names:
            raise UsageError(f"sources[{at}].name {source.name!r} is there twice", "rename one")
        names.add(source.name)
        check_source(f"sources[{at}]", source)
    paths = {"state_dir": config.state_dir, "mqtt.password_file": mqtt.password_file}
    paths |= {
        "commands.snapshot_dir": config.commands.snapshot_dir,
        "updates.ca_file": config.updates.ca_file,
    }
    paths |= {f"commands.keys[{at}].file": key.file for at, key in enumerate(config.commands.keys)}
    if mqtt.tls is not None:
        paths |= {f"mqtt.tls.{f}": getattr(mqtt.tls, f) for f in Tls.__struct_fields__}
    for field, path in paths.items():
        check_text(field, path or "")


def _check_profile(mqtt: Mqtt) -> None:
    for field in Sparkplug.__struct_fields__:
        value = getattr(mqtt.sparkplug, field)
        if value is not None:
            check_level(f"mqtt.sparkplug.{field}", value)
    if mqtt.profile == "json" and mqtt.sparkplug != Sparkplug():
        raise UsageError("mqtt.sparkplug is set, but mqtt.profile is 'json'", "set one of the two")
    if mqtt.home_assistant is None:
        return
    check_topic("mqtt.home_assistant.discovery_prefix", mqtt.home_assistant.discovery_prefix)
    if mqtt.profile != "json":
        raise UsageError(
            f"mqtt.home_assistant is set, but mqtt.profile is {mqtt.profile!r}",
            "Home Assistant reads the profile 'json'",
        )


def _check_address(field: str, value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError as error:
        raise UsageError(f"{field} {value!r} is no IP address", "write 127.0.0.1") from error


def _resolve(config: AgentConfig, folder: Path) -> AgentConfig:
    def absolute(path: str | None) -> str | None:
        return None if path is None else str(folder / path)

    mqtt = replace(config.mqtt, password_file=absolute(config.mqtt.password_file))
    if mqtt.tls is not None:
        files = {f: absolute(getattr(mqtt.tls, f)) for f in Tls.__struct_fields__}
        mqtt = replace(mqtt, tls=Tls(**files))
    return replace(
        config,
        state_dir=str(folder / config.state_dir),
        sources=tuple(resolve_source(section, folder) for section in config.sources),
        mqtt=mqtt,
        commands=replace(
            config.commands,
            keys=tuple(replace(k, file=str(folder / k.file)) for k in config.commands.keys),
            snapshot_dir=absolute(config.commands.snapshot_dir),
        ),
        updates=replace(config.updates, ca_file=absolute(config.updates.ca_file)),
    )
