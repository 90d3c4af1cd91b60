"""A second MQTT client that writes down what really arrives: the demo's figures come from here."""

import base64
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from benchmarks.demo.broker import Address
from deepfusion_edge.errors import InputError, UnreachableError
from deepfusion_toolkit.files import write_bytes

CONNECT_TIMEOUT_S = 10.0


class Received(NamedTuple):
    """One message as it arrived.

    Attributes:
        topic: where it was published.
        payload: its bytes.
        qos: 0, 1 or 2.
        retain: whether the broker had it in store.
        time_s: seconds since 1970.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    time_s: float


class Witness:
    """Subscribed to everything from entering to leaving the context; keeps messages in order."""

    def __init__(
        self, address: Address, on_message: Callable[[Received], None] | None = None
    ) -> None:
        self.messages: list[Received] = []
        self._address, self._told = address, on_message
        self._ready = threading.Event()
        self._refused = ""
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="deepfusion-witness", protocol=paho.MQTTv311
        )
        self._client.username_pw_set(address.user, address.password)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        """Connect and subscribe.

        Raises:
            UnreachableError: the broker is not there, or refuses.
        """
        address = self._address
        try:
            self._client.connect(address.host, address.port)
        except OSError as error:
            raise self._unreachable(str(error)) from error
        self._client.loop_start()
        if not self._ready.wait(CONNECT_TIMEOUT_S) or self._refused:
            self._close()
            raise self._unreachable(self._refused or "no answer in time")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def wait_for(self, enough: Callable[[Sequence[Received]], bool], timeout_s: float) -> bool:
        """Wait until the messages are enough; tell whether they became so in time."""
        deadline = time.monotonic() + timeout_s
        while not enough(self.messages):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    def _close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"broker {self._address.host}:{self._address.port} does not serve the second client"
            f" ({why})",
            "check that it runs and its user and password",
        )

    def _on_connect(
        self,
        client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._refused = str(reason)
            self._ready.set()
            return
        client.subscribe("#", 1)

    def _on_subscribe(
        self,
        _client: paho.Client,
        _userdata: object,
        _number: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refused = f"subscription refused: {reasons[0]}"
        self._ready.set()

    def _on_message(
        self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage
    ) -> None:
        received = Received(
            message.topic, bytes(message.payload), message.qos, message.retain, time.time()
        )
        self.messages.append(received)
        if self._told is not None:
            self._told(received)


def save(messages: Sequence[Received], path: Path) -> None:
    """Write one JSON object a line; payloads that are no UTF-8 text are kept as base64."""
    lines = []
    for message in messages:
        entry: dict[str, object] = message._asdict()
        try:
            entry["payload"] = message.payload.decode()
        except UnicodeDecodeError:
            entry["payload"] = None
            entry["base64"] = base64.b64encode(message.payload).decode()
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    write_bytes(path, "".join(lines).encode())


def read(path: Path) -> list[Received]:
    """Read what :func:`save` wrote.

    Raises:
        InputError: the file is missing or not from here.
    """
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            Received(
                entry["topic"],
                base64.b64decode(entry["base64"])
                if entry["payload"] is None
                else entry["payload"].encode(),
                entry["qos"],
                entry["retain"],
                entry["time_s"],
            )
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} holds no recorded messages ({error})", "start again with --fresh"
        ) from error
