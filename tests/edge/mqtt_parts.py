"""What tests of MQTT share: a listening paho client, and a publisher in a thread."""

import contextlib
import json
import threading
import time
import uuid

import msgspec
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from deepfusion_edge.config import Mqtt
from deepfusion_edge.report.payload import (
    AgentState,
    Decision,
    Subject,
    alert,
    encode,
    rfc3339,
)
from deepfusion_edge.report.publisher import Publisher


class Listener:
    """A subscriber that keeps every message; reconnects by itself."""

    def __init__(self, broker, *, topic="#", username=None, password=None, binary=False):
        self.messages: list[tuple[str, str | bytes, bool]] = []
        self._ready = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"listener-{uuid.uuid4().hex}",
            clean_session=False,
        )
        self._client.reconnect_delay_set(0.1, 0.2)
        if username:
            self._client.username_pw_set(username, password)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _c, _u, m: self.messages.append(
            (m.topic, m.payload if binary else m.payload.decode(errors="replace"), m.retain)
        )
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        assert self._ready.wait(5)

    def bodies(self, end):
        return [body for topic, body, _ in list(self.messages) if topic.endswith(end)]

    def wait(self, condition, timeout_s=10.0):
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.messages[-5:]
            time.sleep(0.02)

    def connected(self):
        return self._client.is_connected()

    def publish(self, topic, body, *, qos, retain=False):
        self._client.publish(topic, body, qos, retain).wait_for_publish(10)

    def answer(self, end, topic, body):
        """Publish ``body`` at once, each time something arrives on a topic that ends so."""
        keep = self._client.on_message

        def reply(client, data, message):
            keep(client, data, message)
            if message.topic.endswith(end):
                client.publish(topic, body, 1)

        self._client.on_message = reply

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


def put(outbox, *texts):
    for text in texts:
        outbox.put("decision/cam", lambda _, text=text: text.encode(), now_s=0.0)


def describe():
    return AgentState(agent="line-1", state="online", reason="running")


def publisher_for(broker, outbox, *, password=None, subscriptions=(), describe=describe, **options):
    mqtt = Mqtt(host=broker.host, port=broker.port, client_id="line-1", **options)
    return Publisher(mqtt, outbox, describe, password=password, subscriptions=subscriptions)


def wait(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def put_decision(outbox, frame, *, source="cam", **changes):
    """Put a decision about frame number ``frame``."""

    def render(name):
        made = Decision(
            id=f"line-1-{name}",
            agent="line-1",
            source=source,
            frame=f"{frame}.png",
            sequence=frame,
            time=rfc3339(time.time()),
            bundle="ab" * 32,
            bundle_sequence=3,
            label=1,
            class_name="scratch",
            confidence=0.75,
            state="accept",
            feature_variance=0.01,
            disagreement=0.02,
            members=8,
            seed=2**53 - 1,
            stream=0,
            latency_ms=12.5,
        )
        return encode(msgspec.structs.replace(made, **changes))

    return outbox.put(f"decision/{source}", render, now_s=time.time())


def put_alert(outbox, reason, *, source=None, **more):
    def render(name):
        subject = None if source is None else Subject(source, "1.png", 1, time.time())
        return encode(
            alert(
                f"line-1-{name}",
                agent="line-1",
                kind="source",
                reason=reason,
                time_s=time.time(),
                subject=subject,
                **more,
            )
        )

    return outbox.put("alert", render, now_s=time.time())


@contextlib.contextmanager
def running(publisher, *, drain_timeout_s=10.0):
    finish = threading.Event()
    failures = []

    def work():
        try:
            publisher.run(finish, drain_timeout_s=drain_timeout_s)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        finish.set()
        thread.join(30)
    assert not thread.is_alive()
    assert not failures


def states(listener):
    return [json.loads(body)["state"] for body in listener.bodies("/state")]
