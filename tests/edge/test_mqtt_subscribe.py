"""What subscriptions bring in, from a real mosquitto."""

import pytest

from deepfusion_edge.report.messages import Subscription
from tests.edge.mqtt_parts import publisher_for, put, running, states, wait


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_what_comes_in_is_told_with_its_flags(broker, listen, outbox, protocol):
    listener = listen(broker)
    listener.publish("in/kept", b"old", qos=1, retain=True)
    listener.wait(lambda: listener.bodies("in/kept"))
    got = []
    heard = Subscription("in/#", 1, got.append)
    with running(publisher_for(broker, outbox, protocol=protocol, subscriptions=[heard])):
        wait(lambda: got)
        listener.publish("in/new", b"\x00\xff", qos=1)
        listener.publish("out/new", b"not asked for", qos=1)
        listener.publish("in/fast", b"", qos=0)
        wait(lambda: len(got) == 3)
    assert [tuple(message) for message in got] == [
        ("in/kept", b"old", True, 1),
        ("in/new", b"\x00\xff", False, 1),
        ("in/fast", b"", False, 0),
    ]


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_subscriptions_come_back_with_a_broker_that_forgot_everything(
    broker, listen, outbox, protocol
):
    listener = listen(broker)
    got = []
    heard = Subscription("in", 1, got.append)
    with running(publisher_for(broker, outbox, protocol=protocol, subscriptions=[heard])):
        listener.wait(lambda: states(listener) == ["online"])
        broker.stop()
        (broker.folder / "mosquitto.db").unlink()
        broker.start()
        put(outbox, "again")
        listener.wait(lambda: "again" in listener.bodies("decision/cam"), 20)
        listener.publish("in", b"after", qos=1)
        wait(lambda: got)
    assert got[0].payload == b"after"


def test_it_is_subscribed_before_the_first_event_is_published(broker, listen, outbox):
    """An answer to the first event cannot come too early."""
    listener = listen(broker)
    got = []
    listener.answer("decision/cam", "in", b"answer")
    put(outbox, "first")
    heard = Subscription("in", 1, got.append)
    with running(publisher_for(broker, outbox, subscriptions=[heard])):
        wait(lambda: got)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_what_is_too_large_never_arrives(broker, listen, outbox, protocol, caplog):
    listener = listen(broker)
    small, large = [], []
    heard = [Subscription("in", 1, small.append, 8), Subscription("in", 1, large.append, 9)]
    with running(publisher_for(broker, outbox, protocol=protocol, subscriptions=heard)):
        listener.wait(lambda: states(listener) == ["online"])
        listener.publish("in", b"x" * 2**20, qos=1)  # MQTT 5: the broker keeps it
        for size in (10, 9, 8):
            listener.publish("in", b"x" * size, qos=1)
        wait(lambda: small)
    assert [len(message.payload) for message in small] == [8]
    assert [len(message.payload) for message in large] == [9, 8]
    assert ("1048576 bytes" in caplog.text) == (protocol == "3.1.1")
    assert "10 bytes" in caplog.text


def test_a_listener_that_fails_ends_nothing(broker, listen, outbox, caplog):
    listener = listen(broker)
    got = []

    def fail(_):
        raise RuntimeError("a defect")

    heard = [Subscription("in", 1, fail), Subscription("in", 1, got.append)]
    with running(publisher_for(broker, outbox, subscriptions=heard)):
        listener.wait(lambda: states(listener) == ["online"])
        listener.publish("in", b"a", qos=1)
        wait(lambda: got)
        put(outbox, "still here")
        listener.wait(lambda: "still here" in listener.bodies("decision/cam"))
    assert "a defect" in caplog.text
