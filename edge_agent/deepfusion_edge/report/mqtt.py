"""One connection to an MQTT broker that comes back by itself; the only home of paho.

Connecting, back-off, TLS, Last Will, subscriptions and confirmations; what is published is the
publisher's business. One thread drives it by calling :meth:`Connection.step`.
"""

import functools
import logging
import random
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from deepfusion_edge.config import Mqtt
from deepfusion_edge.console import one_line
from deepfusion_edge.report.alarm import Alarm
from deepfusion_edge.report.messages import Incoming, Message, Subscription
from deepfusion_edge.report.reasons import connection_problem, refusal
from deepfusion_edge.report.tls import tls_context

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 30.0
CONNECT_TIMEOUT_S = 5.0
GOODBYE_TIMEOUT_S = 3.0
SESSION_EXPIRY_S = 86_400
STABLE_S = 10.0
SUSPICIOUS = 2
_NO_CONNACK = "it ended the connection instead of accepting it, check mqtt.protocol and mqtt.tls"
_HEADER_BYTES = 2**17  # topic and properties of an incoming packet
_TICK_S = 0.05


class Connection:
    """One client of one broker.

    Attributes:
        up: whether messages can be sent now.
        sessions: how often the broker accepted a connection.
        window: how many messages with QoS 1 may be unconfirmed at a time.
        reason: why there is no connection now, one line, without secrets.
    """

    def __init__(
        self,
        config: Mqtt,
        *,
        password: str | None,
        will: Callable[[], Message] | None,
        subscriptions: Sequence[Subscription],
        confirmed: Callable[[int, str | None], None],
        clean: bool = False,
    ) -> None:
        """Prepare; nothing is opened before :meth:`step`.

        Args:
            config: the broker.
            password: never logged.
            will: asked once for every CONNECT packet; None: no will.
            subscriptions: asked for after every connecting, before anything else is sent.
            confirmed: called with the number that :meth:`send` gave, and why the broker refuses
                that message, or None. A message with QoS 0 is confirmed too: the broker answered
                what was sent after it.
            clean: begin without what the broker keeps of the connection before, and keep nothing.

        Raises:
            InputError: a TLS file is missing or no PEM.
        """
        self.up, self.sessions = False, 0
        self.reason = "no connection was tried yet"
        self.config = config
        self.window = config.max_in_flight
        self._will, self._subscriptions, self._confirmed = will, tuple(subscriptions), confirmed
        self._clean = clean
        context = None if config.tls is None else tls_context(config.tls)
        self._renew = functools.partial(self._make_client, password, context)
        self._client = self._renew()
        self._connecting_since: float | None = None
        self._next_try = 0.0
        self._failures = 0
        self._up_at = 0.0
        self._open = False
        self._told = ""  # what the broker, or its silence, said of this attempt
        self._logged = ""
        self._unfenced: list[int] = []  # numbers of messages with QoS 0, below zero
        self._fences: dict[int, list[int]] = {}
        self._last_number = 0
        self._alarm = Alarm()

    @property
    def address(self) -> str:
        """Host and port, for people."""
        return f"{self.config.host}:{self.config.port}"

    def step(self) -> None:
        """Do what is due, at most for about 50 ms (connecting: the connect timeout)."""
        moment = time.monotonic()
        if self._client.socket() is None:
            self.up = False
            if moment < self._next_try:
                time.sleep(min(_TICK_S, self._next_try - moment))
                return
            self._connect()
            return
        since = self._connecting_since
        if since is not None and moment - since > CONNECT_TIMEOUT_S:
            self._drop("the broker accepted the connection but does not answer")
        if self._unfenced and not self._fences:
            self._fence()
        self._exchange(_TICK_S)

    def wake(self) -> None:
        """End the waiting of :meth:`step`, or of the next one; for any thread."""
        self._alarm.ring()

    def hurry(self) -> None:
        """Try now instead of waiting for the next attempt."""
        self._next_try = min(self._next_try, time.monotonic())

    def send(self, message: Message) -> int:
        """Hand a message over and return the number by which it will be confirmed."""
        info = self._client.publish(message.topic, message.body, message.qos, retain=message.retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            # paho keeps a message with QoS 1 and repeats it after the next CONNACK.
            log.debug("publishing waits: %s", paho.error_string(info.rc))
        if message.qos > 0:
            return info.mid
        self._last_number -= 1
        self._unfenced.append(self._last_number)
        return self._last_number

    def close(self, goodbye: Message | None) -> None:
        """Publish ``goodbye``, if there is one, and disconnect in order: the will is not sent.

        The next :meth:`step` connects again, at once.
        """
        if self.up and goodbye is not None:
            info = self._client.publish(
                goodbye.topic, goodbye.body, goodbye.qos, retain=goodbye.retain
            )
            self._exchange_until(
                lambda: info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS or info.is_published()
            )
        if self._client.socket() is not None:
            self._client.on_disconnect = None
            self._client.disconnect()
            self._exchange_until(lambda: False)
        self._client = self._renew()  # paho would repeat an unconfirmed goodbye in the next session
        self.up = False
        self._next_try = 0.0

    def _exchange(self, timeout_s: float) -> None:
        """Read and write what the socket takes; wait for it at most ``timeout_s``."""
        client = self._client
        connection = client.socket()
        if connection is None:
            return
        # What TLS has decrypted already, select does not see.
        pending = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
        writers = [connection] if client.want_write() else []
        with self._alarm as rung:
            wait_s = 0.0 if pending or rung else timeout_s
            readers: list[Any] = [connection, self._alarm]
            ready, writable, _ = select.select(readers, writers, [], wait_s)
        readable = connection in ready
        if readable or pending:
            client.loop_read()
        if writable and client.socket() is not None:
            client.loop_write()
        client.loop_misc()

    def _fence(self) -> None:
        """Ask something small: packets are taken in order, so the answer covers what went before.

        Giving up a subscription nobody has is answered and changes nothing.
        """
        _, number = self._client.unsubscribe(f"{self.config.client_id}/fence")
        if number is not None:
            self._fences[number], self._unfenced = self._unfenced, []

    def _exchange_until(self, done: Callable[[], bool]) -> None:
        """Read and write until ``done``, or until the connection is gone or is too slow."""
        deadline = time.monotonic() + GOODBYE_TIMEOUT_S
        while not done() and time.monotonic() < deadline and self._client.socket() is not None:
            self._exchange(_TICK_S)

    def _connect(self) -> None:
        config, client = self.config, self._client
        self._unfenced, self._fences = [], {}
        self._told, self._open = "", True
        try:
            self._connecting_since = time.monotonic()
            if config.protocol == "5":
                code = client.connect(
                    config.host,
                    config.port,
                    config.keepalive_s,
                    clean_start=self._clean,
                    properties=self._properties(),
                )
            else:
                code = client.connect(config.host, config.port, config.keepalive_s)
        except (OSError, ValueError, paho.WebsocketConnectionError) as error:
            self._failed(connection_problem(error))
            return
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._failed(paho.error_string(code))

    def _properties(self) -> Properties:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0 if self._clean else SESSION_EXPIRY_S
        largest = max((s.max_bytes for s in self._subscriptions), default=0)
        properties.MaximumPacketSize = min(largest + _HEADER_BYTES, 2**28)
        return properties

    def _failed(self, reason: str) -> None:
        """Note why there is no connection and when to try again: doubling delays, jittered."""
        self._connecting_since, self._open = None, False
        self.reason = one_line(reason)
        delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self._next_try = time.monotonic() + delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        if self.reason != self._logged:  # once a reason, not once a try
            self._logged = self.reason
            log.warning("broker %s: %s; events are kept, trying again", self.address, self.reason)

    def _drop(self, reason: str) -> None:
        self._connecting_since = None
        self._told = reason
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is down already; the next loop call finds that out

    def _set_will(self, client: paho.Client, _userdata: object, _socket: object) -> None:
        """Choose the will between opening the socket and sending CONNECT."""
        if self._will is None:
            return
        will = self._will()
        client.will_set(will.topic, will.body, will.qos, retain=will.retain)

    def _on_connect(
        self,
        client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._told = refusal(str(reason))
            return  # the broker closes; on_disconnect counts the failure
        log.info("broker %s: connected", self.address)
        if self._subscriptions:
            client.subscribe([(s.topic, s.qos) for s in self._subscriptions])
        # The state is sent beside the window.
        most = int(getattr(properties, "ReceiveMaximum", 65_535)) - 1
        self.window = max(1, min(self.config.max_in_flight, most))
        self.up, self._connecting_since = True, None
        self.sessions += 1
        self._up_at, self._logged = time.monotonic(), ""

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if not self._open:
            return  # paho tells the end of a connection twice when the keep-alive found it
        if not self.up:
            self._failed(self._told or _NO_CONNACK)
            return
        self.up = False
        if time.monotonic() - self._up_at >= STABLE_S:
            self._failures = 0  # else a broker that accepts and hangs up would be hammered
        often = ""
        if self._failures >= SUSPICIOUS:  # brokers rarely say why
            often = f" soon after connecting, {self._failures + 1} times: is mqtt.client_id unique?"
        self._failed(f"connection lost ({reason}){often}")

    def _on_publish(
        self,
        _client: paho.Client,
        _userdata: object,
        number: int,
        reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        # For QoS 0 paho reports here what the operating system took; only a fence confirms it.
        self._confirmed(number, str(reason) if reason.is_failure else None)

    def _on_subscribe(
        self,
        _client: paho.Client,
        _userdata: object,
        _number: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for subscription, reason in zip(self._subscriptions, reasons, strict=False):
            if reason.is_failure:
                log.error(
                    "broker %s refuses to send %s (%s); allow %s to read it",
                    self.address,
                    subscription.topic,
                    reason,
                    self.config.username or "anonymous clients",
                )

    def _on_unsubscribe(
        self,
        _client: paho.Client,
        _userdata: object,
        number: int,
        _reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for sent in self._fences.pop(number, ()):
            self._confirmed(sent, None)

    def _on_message(
        self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage
    ) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("broker %s: a topic that is not UTF-8 is ignored", self.address)
            return
        incoming = Incoming(topic, bytes(message.payload), message.retain, message.qos)
        for subscription in self._subscriptions:
            if not paho.topic_matches_sub(subscription.topic, topic):
                continue
            if len(incoming.payload) > subscription.max_bytes:
                log.warning(
                    "a message on %s has %d bytes, at most %d are taken: ignored",
                    topic,
                    len(incoming.payload),
                    subscription.max_bytes,
                )
                continue
            try:
                subscription.take(incoming)
            except Exception:
                log.exception("what listens to %s failed on a message", subscription.topic)

    def _make_client(self, password: str | None, context: ssl.SSLContext | None) -> paho.Client:
        config = self.config
        is_5 = config.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=config.client_id,
            clean_session=None if is_5 else self._clean,
            protocol=paho.MQTTv5 if is_5 else paho.MQTTv311,
            reconnect_on_failure=False,  # nor with an older protocol: the configuration says which
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the publisher keeps to the window
        if config.username is not None:
            client.username_pw_set(config.username, password)
        if context is not None:
            client.tls_set_context(context)
        client.on_socket_open = self._set_will
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        # With a foreign event loop, ours, paho writes packets when it is told, many at a time.
        client.on_socket_register_write = lambda *_: None
        client.on_message = self._on_message
        return client
