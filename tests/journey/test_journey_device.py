"""Broker, second client and agent are real here; only the bundle is a toy."""

import json
import socket
import time

import numpy as np
import pytest
from paho.mqtt import client as paho
from PIL import Image

from benchmarks.demo import broker, device, summary, witness
from deepfusion_edge.errors import InputError, UnreachableError
from deepfusion_toolkit import data


@pytest.fixture
def colours(tmp_path):
    """Three flat images; the toy bundle names the strongest colour."""
    for number, name in enumerate(("red", "green", "blue")):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[..., number] = 200
        (tmp_path / "clean" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "clean" / name / "one.png")
    return tmp_path / "clean"


def test_a_second_client_receives_what_the_agent_decides(
    tmp_path, make_bundle, keys, colours, capfd
):
    path = make_bundle(tmp_path / "line.dfb")
    log = tmp_path / "agent.log"
    device.call_agent(
        ["install", path, "--trust", keys.public, "--state", tmp_path / "device"], log
    )
    messages, config = device.replay(
        tmp_path, tmp_path / "device", {"clean": colours, "attacked": colours / "red"}
    )
    found = summary.decisions(messages)
    classes = data.load(colours, classes=("red", "green", "blue"))
    assert summary.defended(summary.labels_of(classes), found["clean"]).right == 3
    assert found["attacked"]["one"].class_name == "red"
    states = [m for m in messages if m.topic.endswith("/state")]
    assert [json.loads(m.payload)["state"] for m in (states[0], states[-1])] == [
        "online",
        "offline",
    ]
    assert config["sources"][0]["path"] == str(colours)
    # The password is nowhere on disk, and the commands are shown as typed.
    assert config["mqtt"]["password_env"] == device.PASSWORD_ENV
    assert "password_file" not in config["mqtt"]
    assert f"$ deepfusion-agent run --config {tmp_path / 'agent.json'}" in capfd.readouterr().out


def test_recorded_messages_come_back_as_they_were(tmp_path):
    sent = [
        witness.Received("a/b", b'{"x": "\xc3\xa9"}', 1, False, 1.5),
        witness.Received("a/c", b"\xff\x00", 0, True, 2.0),
    ]
    witness.save(sent, tmp_path / "m.jsonl")
    assert witness.read(tmp_path / "m.jsonl") == sent


@pytest.mark.parametrize("text", ["{", '{"topic": "a"}\n', "[]\n"])
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(InputError, match="holds no recorded messages"):
        witness.read(tmp_path / "m.jsonl")


def test_the_broker_wants_its_password_and_goes_with_its_owner(tmp_path):
    with broker.running(tmp_path / "broker.log") as address:
        assert address.host == "127.0.0.1"
        with (
            pytest.raises(UnreachableError, match="Not authorized"),
            witness.Witness(address._replace(password="wrong" + address.password)),
        ):
            pass
        with witness.Witness(address) as second:
            client = paho.Client(paho.CallbackAPIVersion.VERSION2)
            client.username_pw_set(address.user, address.password)
            client.connect(address.host, address.port)
            client.loop_start()
            client.publish("a", b"b", 1)
            assert second.wait_for(lambda got: len(got) == 1, 10)
            client.disconnect()
            client.loop_stop()
        assert second.messages[0][:3] == ("a", b"b", 1)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address.host, address.port), 1)


def test_without_a_broker_the_second_client_says_so():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = broker.Address("127.0.0.1", probe.getsockname()[1], "u", "p")
        with pytest.raises(UnreachableError, match="second client"), witness.Witness(address):
            pass


def test_a_broker_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(broker.sys, "executable", "/bin/false")
    with (
        pytest.raises(UnreachableError, match="did not start"),
        broker.running(tmp_path / "broker.log"),
    ):
        pass


def test_the_agents_own_error_and_code_are_passed_on(tmp_path):
    with pytest.raises(device.AgentError, match=r"status ended with code 3: ") as caught:
        device.call_agent(
            ["status", "--state", tmp_path / "state"],
            tmp_path / "agent.log",
        )
    assert caught.value.exit_code == 3


def test_waiting_ends_in_time():
    lonely = witness.Witness(broker.Address("127.0.0.1", 1, "u", "p"))
    begun = time.monotonic()
    assert not lonely.wait_for(bool, 0.2)
    assert time.monotonic() - begun < 2


def test_an_empty_folder_has_nothing_to_replay(tmp_path):
    with pytest.raises(InputError, match="holds no PNG or JPEG"):
        device.count_images(tmp_path)
