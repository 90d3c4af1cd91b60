"""Who is stuck, and what systemd hears; against a real datagram socket."""

import socket

import pytest

from deepfusion_edge.watchdog import Watchdog, notify


def test_stuck_is_who_does_not_beat_in_time():
    clock = [0.0]
    dog = Watchdog(2.0, monotonic=lambda: clock[0])
    clock[0] = 100.0
    assert not dog.stuck  # nothing began
    dog.beat()
    clock[0] = 102.0
    assert not dog.stuck
    clock[0] = 102.1
    assert dog.stuck
    dog.beat()
    assert not dog.stuck
    clock[0] = 200.0
    dog.rest()
    assert not dog.stuck


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path, monkeypatch, abstract):
    name = f"@deepfusion-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1")
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_without_systemd_nothing_happens(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")
