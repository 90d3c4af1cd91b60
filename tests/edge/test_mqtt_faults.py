"""Brokers that refuse, lie, hang up or push us out: told, survived, and nothing is lost."""

import logging
import os
import time

import pytest

from benchmarks.prove.faults.scripted_broker import ACCEPTED, ScriptedBroker, connack
from deepfusion_edge.config import Mqtt
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report import publisher as publisher_module
from deepfusion_edge.report.messages import Subscription
from deepfusion_edge.report.publisher import Publisher
from tests.edge.mqtt_parts import describe, publisher_for, put, running, states, wait


@pytest.mark.parametrize(
    ("protocol", "code", "told"),
    [
        ("3.1.1", 1, "mqtt.protocol"),
        ("3.1.1", 2, "identifier"),
        ("3.1.1", 3, "unavailable"),
        ("3.1.1", 5, "check mqtt.username and the password"),
        ("5", 0x84, "protocol version"),
        ("5", 0x85, "identifier"),
        ("5", 0x86, "check mqtt.username and the password"),
        ("5", 0x87, "check mqtt.username and the password"),
        ("5", 0x88, "unavailable"),
        ("5", 0x89, "busy"),
        ("5", 0x97, "Quota exceeded"),
    ],
)
def test_a_refusal_is_told_once_and_tried_again(outbox, caplog, protocol, code, told):
    put(outbox, "a")
    with ScriptedBroker([connack(protocol, code)]) as broker:
        publisher = publisher_for(broker, outbox, protocol=protocol)
        with running(publisher, drain_timeout_s=0.1):
            wait(lambda: broker.connections >= 3)
    assert told in publisher.reason
    assert not publisher.answered
    assert outbox.kept == 1
    assert len([r for r in caplog.records if "events are kept" in r.message]) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",  # hangs up
        b"\x20",  # half a CONNACK
        b"\x20\x7f",
        b"\x20\x02\x00\x63",  # a code nobody has
        b"\x30\x02\x00\x00",  # a PUBLISH first
        b"\xff\xff\xff\xff\xff\xff",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x03\x00\x00\x05",  # properties that are not there
    ],
)
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_nonsense_is_survived(outbox, answer, protocol):
    put(outbox, "a")
    with (
        ScriptedBroker([answer]) as broker,
        running(publisher_for(broker, outbox, protocol=protocol), drain_timeout_s=0.1),
    ):
        wait(lambda: broker.connections >= 2)
    assert outbox.kept == 1


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_broker_that_hangs_up_after_accepting_is_not_hammered(outbox, protocol):
    put(outbox, "a")
    with ScriptedBroker([ACCEPTED[protocol]]) as broker:
        publisher = publisher_for(broker, outbox, protocol=protocol)
        with running(publisher, drain_timeout_s=0.1):
            begun = time.monotonic()
            wait(lambda: broker.connections >= 5)
            took_s = time.monotonic() - begun
    assert took_s > 1.5  # delays of .25, .5, 1 and 2 s, each at least halved by chance
    assert "connection lost" in publisher.reason
    assert outbox.kept == 1


def test_a_subscription_that_is_refused_is_told(outbox, caplog):
    suback = b"\x90\x04\x00\x01\x00\x87"
    heard = [Subscription("in", 1, lambda _: None)]
    with (
        ScriptedBroker([ACCEPTED["5"], suback, b"", b"", b""]) as broker,
        running(publisher_for(broker, outbox, subscriptions=heard), drain_timeout_s=0.1),
    ):
        wait(lambda: "refuses to send in" in caplog.text)


def test_a_broker_that_takes_few_at_a_time_gets_few(make_broker, outbox):
    """MQTT 5 Receive Maximum: mosquitto closes the connection of a client that exceeds it."""
    broker = make_broker(options="max_inflight_messages 3\n")
    put(outbox, *map(str, range(500)))
    publisher = publisher_for(broker, outbox, max_in_flight=1000)
    with running(publisher):
        wait(lambda: not outbox.kept)
    assert publisher._connection.sessions == 1


def test_two_agents_of_one_name_push_each_other_out_and_say_so(broker, outbox, tmp_path, caplog):
    (tmp_path / "other").mkdir()
    with Outbox(tmp_path / "other", max_events=10, max_bytes=2**20, ttl_s=None) as box:
        first, second = publisher_for(broker, box), publisher_for(broker, outbox)
        with running(first), running(second):
            put(outbox, "a")
            wait(lambda: "is mqtt.client_id unique?" in caplog.text)
            wait(lambda: not outbox.kept, 60)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small tmpfs is mounted by root alone")
def test_a_broker_whose_disk_is_full_costs_nothing(make_broker, listen, outbox, small_disk):
    """mosquitto goes on without saving; what it confirmed it must deliver to those who listen."""
    broker = make_broker(options="autosave_interval 1\n", disk=small_disk)
    (small_disk / "somebody").write_bytes(b"x" * (16 * 2**20 - 2**15))
    listener = listen(broker)
    with running(publisher_for(broker, outbox)):
        put(outbox, *("x" * 500 + str(n) for n in range(300)))
        wait(lambda: not outbox.kept)
        listener.wait(lambda: len(listener.bodies("decision/cam")) >= 300)
    assert states(listener)[0] == "online"


def test_planted_secrets_are_never_written(make_broker, outbox, caplog, capfd):
    secret = "pl4nted-s3cret"  # noqa: S105 - of a broker that lives for one test
    broker = make_broker(username="line", password=secret)
    put(outbox, "a")
    with caplog.at_level(logging.DEBUG):
        for password in (secret, "wrong-" + secret):
            publisher = publisher_for(broker, outbox, password=password, username="line")
            with running(publisher, drain_timeout_s=1):
                wait(lambda p=publisher: p.answered or "refused" in p.reason)
    seen = caplog.text + "".join(capfd.readouterr()) + broker.log()
    seen += publisher.reason + repr(publisher.config) + repr(vars(publisher))
    assert secret not in seen


def test_events_that_were_refused_arrive_in_order_once_they_are_allowed(
    make_broker, listen, outbox, tmp_path, monkeypatch
):
    monkeypatch.setattr(publisher_module, "REFUSED_PAUSE_S", 0.2)
    rules = tmp_path / "acl"
    rules.write_text("topic read #\ntopic write deepfusion/line-1/state\n")
    rules.chmod(0o600)
    broker = make_broker(options=f"acl_file {rules}\n")
    listener = listen(broker)
    put(outbox, *map(str, range(400)))
    with running(publisher_for(broker, outbox)):
        listener.wait(lambda: states(listener) == ["online"])
        put(outbox, *map(str, range(400, 500)))
        broker.stop()
        rules.write_text("topic readwrite #\n")
        broker.start()
        wait(lambda: not outbox.kept)
        listener.wait(lambda: len(set(listener.bodies("decision/cam"))) == 500)
    got = list(dict.fromkeys(map(int, listener.bodies("decision/cam"))))
    assert got == list(range(500))


@pytest.mark.parametrize("jump_s", [1e9, -1e6])
def test_a_clock_that_is_set_loses_no_event(broker, listen, tmp_path, jump_s):
    """Booted in 1970, the network tells the time, and only then the broker can be reached."""
    clock = [0.0]

    def now():
        return time.monotonic() + clock[0]

    config = Mqtt(host=broker.host, port=broker.port, client_id="line-1", state_interval_s=0.1)
    with Outbox(tmp_path, max_events=100, max_bytes=2**20, ttl_s=60) as box:
        publisher = Publisher(config, box, describe, now=now)
        box.put("decision/cam", lambda _: b"early", now_s=now())
        clock[0] = jump_s
        listener = listen(broker)
        with running(publisher):
            listener.wait(lambda: listener.bodies("decision/cam") == ["early"])
        assert box.counters(now_s=now()).expired == 0
