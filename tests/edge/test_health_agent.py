"""A running agent seen from outside: page, metrics and health follow what the line does."""

import io
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from msgspec.structs import replace
from PIL import Image

from deepfusion_edge import agent as agent_module
from deepfusion_edge.agent import run_agent
from deepfusion_edge.bundle.store import install
from deepfusion_edge.config import AgentConfig, FolderSource, Http, Mqtt, Run
from deepfusion_edge.errors import StorageError
from deepfusion_edge.line import load_line
from deepfusion_edge.outbox import Outbox
from tests.conftest import free_port

NOW = "2026-06-01T00:00:00Z"


@pytest.fixture
def config(tmp_path, make_bundle, keys):
    state, frames = tmp_path / "state", tmp_path / "frames"
    frames.mkdir()
    install(make_bundle(tmp_path / "line.dfb"), state, [keys.public], now=NOW)
    source = FolderSource(name="cam", path=str(frames), mode="watch", poll_interval_s=0.05)
    return AgentConfig(
        state_dir=str(state),
        sources=(source,),
        mqtt=Mqtt(port=1, client_id="line-1", state_interval_s=0.2),
        run=Run(drain_timeout_s=0.0),
        http=Http(port=free_port()),
    )


@contextmanager
def running(config, **parts):
    stop, ended = threading.Event(), []
    work = threading.Thread(
        target=lambda: ended.append(run_agent(config, stop=stop, **parts)), daemon=True
    )
    work.start()
    try:
        yield
    finally:
        stop.set()
        work.join(30)
    assert ended


def ask(config, path):
    """Answer and status, waiting for the agent to listen."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{config.http.port}{path}") as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def until(question):
    deadline = time.monotonic() + 30
    while not (found := question()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def status(config):
    return json.loads(ask(config, "/status.json")[1])


def put(config, name, colour):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    path = agent_module.Path(config.sources[0].path)
    (path / f"{name}.part").write_bytes(stream.getvalue())
    (path / f"{name}.part").rename(path / name)


def test_the_page_follows_the_line(config):
    with running(config):
        until(lambda: ask(config, "/healthz")[0] == 200)
        put(config, "a.png", "red")
        seen = until(lambda: status(config)["last"])
        assert [(one["frame"], one["class_name"]) for one in seen] == [("a.png", "red")]
        assert ask(config, f"/picture/{seen[0]['number']}")[0] == 200
        now = status(config)
        assert now["state"]["counters"]["kept"] == 1
        assert now["state"]["bundle"]["sequence"] == 1
        assert now["device"]["rss_bytes"] > 0
        assert [(e["sequence"], e["result"]) for e in now["history"]] == [(1, "installed")]
        assert now["broker"]
        text = ask(config, "/metrics")[1].decode()
        assert 'deepfusion_frames_total{source="cam",verdict="accept"} 1.0' in text
        assert "deepfusion_outbox_events 1.0" in text
        assert "deepfusion_broker_connected 0.0" in text


def test_a_lost_source_is_unhealthy_and_comes_back(config):
    folder = agent_module.Path(config.sources[0].path)
    with running(config):
        until(lambda: ask(config, "/healthz")[0] == 200)
        folder.rename(folder.with_name("away"))
        code, body = until(lambda: a if (a := ask(config, "/healthz"))[0] == 503 else None)
        assert (code, b"source cam is lost") == (503, body[body.index(b"source") :][:18])
        folder.with_name("away").rename(folder)
        until(lambda: ask(config, "/healthz")[0] == 200)


def test_while_it_warms_up_it_answers_but_is_not_healthy(config):
    go = threading.Event()

    def load(chosen):
        assert go.wait(30)
        return load_line(chosen)

    with running(config, load=load):
        code, body = ask(config, "/healthz")
        assert (code, json.loads(body)["reasons"]) == (
            503,
            ["warming up: no frame is judged yet"],
        )
        go.set()
        until(lambda: ask(config, "/healthz")[0] == 200)


def test_an_outbox_that_cannot_be_written_says_so_and_is_not_changed(tmp_path):
    with Outbox(tmp_path, max_events=10, max_bytes=2**20, ttl_s=None) as outbox:
        outbox.put("alert", str.encode, now_s=1.0)
        before = outbox.counters(now_s=1.0)
        outbox.check()
        assert outbox.counters(now_s=1.0) == before
        outbox._db.execute("PRAGMA query_only = 1")
        with pytest.raises(StorageError, match="readonly"):
            outbox.check()


def test_the_state_at_the_broker_says_how_the_device_is(config, broker, listen):
    config = replace(config, mqtt=replace(config.mqtt, port=broker.port))
    listener = listen(broker)
    with running(config):
        told = until(lambda: [body for body in listener.bodies("/state") if "device" in body])
        until(lambda: status(config)["broker"] is None)
    assert json.loads(told[0])["device"]["rss_bytes"] > 0


def test_without_the_section_no_port_is_opened(config, monkeypatch):
    monkeypatch.setattr(agent_module, "serve", lambda *_: pytest.fail("it serves"))
    closed = replace(config, http=None)
    begun = threading.Event()

    def load(chosen):
        begun.set()
        return load_line(chosen)

    with running(closed, load=load):
        assert begun.wait(30)


def test_a_page_that_breaks_does_not_stop_the_line(config, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(agent_module, "serve", broken)
    with caplog.at_level(logging.INFO, "deepfusion_edge"), running(config):
        put(config, "a.png", "red")
        until(lambda: "accept cam/a.png" in caplog.text)
    assert "status page ended" in caplog.text
