"""An inference that never returns: whole processes, because one of them has to die."""

import json
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from deepfusion_edge.config import AgentConfig, FolderSource, Model, Mqtt, Run
from deepfusion_edge.outbox import Outbox

AGENT = """
import sys, threading, time
from pathlib import Path
import msgspec, numpy as np
from deepfusion_edge.agent import run_agent
from deepfusion_edge.bundle.manifest import parse_manifest
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.fusion import Outputs
from deepfusion_edge.line import Line

class Session:
    provider = "FakeProvider"
    runs = 0
    def run(self, image, factors):
        Session.runs += 1
        if Session.runs == {hangs_at}:
            time.sleep(600)
        fused = np.array([1, 0, 0], np.float32)
        return Outputs(fused, np.tile(fused, (len(factors), 1)), 0.0)

manifest = parse_manifest(Path(sys.argv[1]).read_bytes())
config = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=AgentConfig)
load = lambda _: Line(manifest, "ab" * 32, Session())
run_agent(config, stop=threading.Event(), load=load)
"""


@pytest.fixture
def start(tmp_path, make_bundle):
    """``start(hangs_at, port, ...)`` -> process of an agent."""
    manifest = make_bundle(tmp_path / "made") / "manifest.json"
    frames, state = tmp_path / "frames", tmp_path / "state"
    frames.mkdir()
    state.mkdir()
    for n in range(3):
        (frames / f"{n}.png").write_bytes(b"no image, no inference" if n == 1 else _png())

    def make(*, hangs_at, port=1, watchdog_s=1.0, mode="watch", environment=None):
        config = AgentConfig(
            state_dir=str(state),
            sources=(FolderSource(name="cam", path=str(frames), mode=mode, poll_interval_s=0.05),),
            mqtt=Mqtt(port=port, client_id="line-1"),
            model=Model(watchdog_s=watchdog_s),
            run=Run(drain_timeout_s=5.0),
        )
        import msgspec

        (tmp_path / "agent.json").write_bytes(msgspec.json.encode(config))
        script = tmp_path / "agent.py"
        script.write_text(textwrap.dedent(AGENT.format(hangs_at=hangs_at)))
        return subprocess.Popen(
            [sys.executable, str(script), str(manifest), str(tmp_path / "agent.json")],
            stderr=subprocess.PIPE,
            env=environment,
        )

    return make


def _png():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def ended(process, timeout_s=60):
    with process:
        _, errors = process.communicate(timeout=timeout_s)
    return process.returncode, errors.decode()


def test_a_stuck_inference_is_an_alert_and_exit_code_9(start, broker, listen):
    listener = listen(broker)
    code, errors = ended(start(hangs_at=3, port=broker.port))
    assert code == 9, errors
    listener.wait(lambda: any("watchdog" in body for body in listener.bodies("/alert")))
    (alert,) = [a for a in map(json.loads, listener.bodies("/alert")) if a["kind"] == "watchdog"]
    assert "nothing moved for 1 s (model.watchdog_s)" in alert["reason"]
    decisions = [json.loads(body)["frame"] for body in listener.bodies("decision/cam")]
    assert decisions == ["0.png"]
    listener.wait(lambda: json.loads(listener.bodies("/state")[-1])["state"] == "offline")


def test_without_a_broker_the_alert_is_kept(start, tmp_path):
    code, errors = ended(start(hangs_at=2))
    assert code == 9, errors
    with Outbox(tmp_path / "state", max_events=10**4, max_bytes=2**24, ttl_s=None) as outbox:
        kept = [json.loads(event.body) for event in outbox.peek(100)]
    assert kept[-1]["kind"] == "watchdog"


def test_a_warm_up_that_hangs_ends_before_any_verdict(start, tmp_path):
    code, errors = ended(start(hangs_at=1))
    assert code == 9, errors
    with Outbox(tmp_path / "state", max_events=10**4, max_bytes=2**24, ttl_s=None) as outbox:
        assert [event.channel for event in outbox.peek(100)] == ["alert"]


def test_systemd_hears_ready_after_the_warm_up_then_that_the_loop_lives(start, tmp_path):
    import os

    heard = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(0.1)
        over = threading.Event()

        def listen():
            while not over.is_set():
                try:
                    heard.append(systemd.recv(1000).decode())
                except TimeoutError:
                    continue

        listener = threading.Thread(target=listen)
        listener.start()
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        process = start(hangs_at=3, watchdog_s=2.0, environment=environment)
        code, errors = ended(process)
        over.set()
        listener.join()
    assert code == 9, errors
    assert heard.count("READY=1") == 1
    after = heard[heard.index("READY=1") + 1 :]
    assert "WATCHDOG=1" in after
    assert len(after) < 8  # it was not told that all is well for ever


def test_time_is_measured_only_while_something_runs(start, tmp_path):
    """A source without frames is no stuck inference."""
    process = start(hangs_at=100, watchdog_s=0.3)
    deadline = time.monotonic() + 60
    while not (tmp_path / "state" / "outbox.sqlite").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(3)
    assert process.poll() is None
    process.kill()
    ended(process)
