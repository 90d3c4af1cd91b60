"""The publisher against a real mosquitto, heard by a second paho client."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from deepfusion_edge.report import mqtt as mqtt_module
from tests.edge.mqtt_parts import Listener, publisher_for, put, running, states

SECRET = "s3cret-of-the-line"  # noqa: S105 - of a broker that lives for one test


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_events_arrive_in_order_and_the_state_frames_them(broker, listen, outbox, protocol):
    listener = listen(broker)
    put(outbox, *map(str, range(100)))
    with running(publisher_for(broker, outbox, protocol=protocol)):
        listener.wait(lambda: len(listener.bodies("decision/cam")) == 100)
        put(outbox, "later")
    listener.wait(lambda: states(listener)[-1:] == ["offline"])
    assert listener.bodies("decision/cam") == [*map(str, range(100)), "later"]
    assert outbox.kept == 0
    assert outbox.counters(now_s=0).sent == 101
    assert states(listener) == ["online", "offline"]
    assert json.loads(listener.bodies("/state")[-1])["reason"] == "stopped"
    late = Listener(broker, topic="deepfusion/line-1/state")
    late.wait(lambda: late.messages)
    topic, body, retained = late.messages[0]
    late.close()
    assert (topic, json.loads(body)["state"], retained) == (
        "deepfusion/line-1/state",
        "offline",
        True,
    )


def test_the_last_will_says_offline_when_the_agent_is_killed(broker, listen, tmp_path):
    listener = listen(broker)
    program = textwrap.dedent(
        f"""
        import threading
        from pathlib import Path
        from deepfusion_edge.config import Mqtt
        from deepfusion_edge.outbox import Outbox
        from deepfusion_edge.report.publisher import Publisher
        from deepfusion_edge.report.payload import AgentState
        state = AgentState(agent="line-1", state="online", reason="running")
        box = Outbox(Path({str(tmp_path)!r}), max_events=9, max_bytes=2**20, ttl_s=None)
        mqtt = Mqtt(port={broker.port}, client_id="line-1")
        Publisher(mqtt, box, lambda: state).run(threading.Event(), drain_timeout_s=1)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        listener.wait(lambda: states(listener) == ["online"])
        os.kill(process.pid, signal.SIGKILL)
    listener.wait(lambda: states(listener) == ["online", "offline"])
    assert json.loads(listener.bodies("/state")[-1])["reason"] == "connection lost"


def test_broker_restart_half_way_loses_nothing(broker, listen, outbox):
    listener = listen(broker)
    total = 600
    with running(publisher_for(broker, outbox)):
        for n in range(total):
            put(outbox, str(n))
            if n == 200:
                listener.wait(lambda: len(listener.bodies("decision/cam")) > 50)
                broker.stop()
            if n == 400:
                broker.start()
    listener.wait(lambda: len(set(listener.bodies("decision/cam"))) == total)
    got = [int(body) for body in listener.bodies("decision/cam")]
    assert list(dict.fromkeys(got)) == list(range(total))  # first arrivals are in order
    assert outbox.kept == 0
    assert outbox.counters(now_s=0).sent == total


def test_a_broker_that_comes_late_gets_everything(make_broker, listen, outbox):
    broker = make_broker(started=False)
    put(outbox, "a", "b")
    publisher = publisher_for(broker, outbox)
    with running(publisher):
        time.sleep(0.5)
        assert not publisher.answered
        broker.start()
        listener = listen(broker)
        put(outbox, "c")
        listener.wait(lambda: "c" in listener.bodies("decision/cam"))
        listener.wait(lambda: outbox.kept == 0)


def test_a_broker_that_never_comes_costs_the_drain_time_and_keeps_events(
    make_broker, outbox, caplog
):
    broker = make_broker(started=False)
    put(outbox, "a")
    publisher = publisher_for(broker, outbox)
    begun = time.monotonic()
    with caplog.at_level(logging.INFO), running(publisher, drain_timeout_s=1.5):
        pass
    assert 1.4 < time.monotonic() - begun < 4
    assert not publisher.answered
    assert outbox.kept == 1
    assert "refused" in publisher.reason.lower()
    assert len([r for r in caplog.records if "events are kept" in r.message]) == 1  # not once a try


def test_a_frozen_broker_is_noticed_and_nothing_is_lost(broker, listen, outbox):
    listener = listen(broker)
    publisher = publisher_for(broker, outbox, keepalive_s=2)
    with running(publisher, drain_timeout_s=20):
        listener.wait(lambda: states(listener) == ["online"])
        broker.freeze()
        put(outbox, "while frozen")
        deadline = time.monotonic() + 10
        while "lost" not in publisher.reason:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert outbox.kept == 1
        broker.thaw()
        listener.wait(lambda: "while frozen" in listener.bodies("decision/cam"), 20)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_wrong_password_is_told_clearly_and_never_shown(make_broker, outbox, caplog, protocol):
    broker = make_broker(username="line", password="right")  # noqa: S106
    put(outbox, "a")
    publisher = publisher_for(broker, outbox, password=SECRET, username="line", protocol=protocol)
    with caplog.at_level(logging.DEBUG), running(publisher, drain_timeout_s=1):
        pass
    assert not publisher.answered
    assert "check mqtt.username and the password" in publisher.reason
    assert publisher.reason in caplog.text
    assert SECRET not in caplog.text + publisher.reason + repr(publisher.config)
    assert outbox.kept == 1


def test_the_right_password_opens(make_broker, listen, outbox):
    broker = make_broker(username="line", password=SECRET)
    listener = listen(broker, username="line", password=SECRET)
    put(outbox, "a")
    with running(publisher_for(broker, outbox, password=SECRET, username="line")):
        listener.wait(lambda: listener.bodies("decision/cam") == ["a"])
        listener.wait(lambda: outbox.kept == 0)


def test_events_a_broker_refuses_are_kept(make_broker, tmp_path, outbox, caplog):
    rules = tmp_path / "acl"
    rules.write_text("topic read #\ntopic write deepfusion/line-1/state\n")
    rules.chmod(0o600)
    broker = make_broker(options=f"acl_file {rules}\n")
    put(outbox, "a", "b")
    with running(publisher_for(broker, outbox), drain_timeout_s=1):
        pass
    assert outbox.kept == 2
    assert outbox.counters(now_s=0).sent == 0
    assert "refuses events" in caplog.text


def test_never_more_than_the_window_is_under_way(broker, outbox):
    publisher = publisher_for(broker, outbox, max_in_flight=3)
    with running(publisher):
        deadline = time.monotonic() + 10
        while not publisher.answered:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        broker.freeze()
        put(outbox, *map(str, range(20)))
        time.sleep(0.5)
        assert len(publisher._sent) == 3
        broker.thaw()
    assert outbox.kept == 0


def test_an_event_does_not_wait_for_the_next_turn(broker, listen, outbox, monkeypatch):
    monkeypatch.setattr(mqtt_module, "_TICK_S", 5.0)
    listener = listen(broker)
    with running(publisher_for(broker, outbox)):
        listener.wait(lambda: states(listener) == ["online"])
        begun = time.monotonic()
        for number in range(20):
            put(outbox, str(number))
            listener.wait(lambda n=number: str(n) in listener.bodies("decision/cam"))
        assert time.monotonic() - begun < 4
