"""An MQTT client that is not ours to compare with and to hear what arrives."""

import threading
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from deepfusion_edge.errors import UnreachableError

_PATIENCE_S = 20.0


class Subscriber:
    """Hears a topic with QoS 1 and a session that outlives the broker; connects again by itself."""

    def __init__(self, port: int, topic: str, heard: Callable[[str, bytes], None]) -> None:
        self._port = port
        self._ready = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"bench-{uuid.uuid4().hex[:12]}",
            clean_session=False,
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _c, _u, m: heard(m.topic, bytes(m.payload))

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        if not self._ready.wait(_PATIENCE_S):
            raise UnreachableError("the broker does not answer", "see its log")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, body: bytes) -> None:
        """Publish with QoS 0: what is lost on loopback is not waited for."""
        self._client.publish(topic, body, 0)
