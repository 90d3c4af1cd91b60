"""Outbox -> broker over MQTT: retained state with Last Will, QoS 1, forgotten only after PUBACK.

Topics, below ``<base_topic>/<client_id>/``: ``state``, ``decision/<source>``, ``alert``.
The publisher runs in one thread that it does not start; paho's own queue never holds more than the
window of unconfirmed events, because paho keeps its queue in memory and drops the newest.
"""

import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from deepfusion_edge.config import Mqtt
from deepfusion_edge.console import one_line
from deepfusion_edge.errors import InputError
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report.payload import AgentState, encode

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 30.0
CONNECT_TIMEOUT_S = 5.0
GOODBYE_TIMEOUT_S = 3.0
SESSION_EXPIRY_S = 86_400
_TICK_S = 0.05


class Publisher:
    """One agent's connection to its broker.

    Attributes:
        answered: whether the broker ever accepted a connection.
        reason: why there is no connection now, one line, without secrets.
    """

    def __init__(
        self,
        config: Mqtt,
        outbox: Outbox,
        describe: Callable[[], AgentState],
        *,
        password: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is sent before :meth:`run`.

        Args:
            config: the broker.
            outbox: what is sent.
            describe: called for what the retained state says while online.
            password: never logged.
            now: seconds since 1970, for the events' time to live.

        Raises:
            InputError: a TLS file is missing or no PEM.
        """
        self.answered = False
        self.reason = "no connection was tried yet"
        self.config = config
        self._outbox, self._describe, self._now = outbox, describe, now
        self._prefix = f"{config.base_topic}/{config.client_id}/"
        self._client = self._make_client(password)
        self._connected = False
        self._connecting_since: float | None = None
        self._next_try = self._next_state = self._hold_until = 0.0
        self._failures = 0
        self._sent: dict[int, int] = {}  # paho's message number -> id in the outbox
        self._after = 0
        self._logged = ""

    @property
    def address(self) -> str:
        """Host and port, for people."""
        return f"{self.config.host}:{self.config.port}"

    def run(self, finish: threading.Event, *, drain_timeout_s: float) -> None:
        """Publish until ``finish`` is set, then drain the outbox and say goodbye.

        Returns when all is delivered, or ``drain_timeout_s`` after ``finish``; what is not
        confirmed by then stays in the outbox.
        """
        deadline: float | None = None
        while True:
            if finish.is_set():
                if deadline is None:
                    deadline = time.monotonic() + drain_timeout_s
                    self._next_try = min(self._next_try, time.monotonic())
                if time.monotonic() >= deadline or (self._connected and not self._outbox.kept):
                    break
            self._step()
        self._say_goodbye()

    def _step(self) -> None:
        """Do what is due, at most for about 50 ms (connecting: the connect timeout)."""
        moment = time.monotonic()
        if self._client.socket() is None:
            self._connected = False
            if moment < self._next_try:
                time.sleep(min(_TICK_S, self._next_try - moment))
                return
            self._connect()
            return
        if (
            self._connecting_since is not None
            and moment - self._connecting_since > CONNECT_TIMEOUT_S
        ):
            self._drop_connection("the broker accepted the connection but does not answer")
        if self._connected:
            self._publish_state_when_due(moment)
            if moment >= self._hold_until:
                self._fill_window()
        self._client.loop(_TICK_S)

    def _connect(self) -> None:
        config, client = self.config, self._client
        try:
            self._connecting_since = time.monotonic()
            if config.protocol == "5":
                code = client.connect(
                    config.host,
                    config.port,
                    config.keepalive_s,
                    clean_start=False,
                    properties=_session_properties(),
                )
            else:
                code = client.connect(config.host, config.port, config.keepalive_s)
        except (OSError, ValueError, paho.WebsocketConnectionError) as error:
            self._failed(_connection_problem(error))
            return
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._failed(paho.error_string(code))

    def _failed(self, reason: str) -> None:
        """Note why there is no connection and when to try again: doubling delays, jittered."""
        self._connecting_since = None
        self.reason = one_line(reason)
        delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self._next_try = time.monotonic() + delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        if self.reason != self._logged:  # once a reason, not once a try
            self._logged = self.reason
            log.warning("broker %s: %s; events are kept, trying again", self.address, self.reason)

    def _drop_connection(self, reason: str) -> None:
        self._connecting_since = None
        self.reason = reason
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is down already; the next loop call finds that out

    def _publish_state_when_due(self, moment: float) -> None:
        if moment >= self._next_state:
            self._next_state = moment + self.config.state_interval_s
            self._outbox.expire(now_s=self._now())
            self._client.publish(self._prefix + "state", encode(self._describe()), 1, retain=True)

    def _fill_window(self) -> None:
        room = self.config.max_in_flight - len(self._sent)
        if room <= 0:
            return
        under_way = set(self._sent.values())
        # Events under way may lie beyond self._after only when one before them was refused.
        for event in self._outbox.peek(room + len(under_way), after=self._after):
            if event.id in under_way:
                continue
            if room == 0:
                break
            info = self._client.publish(self._prefix + event.channel, event.body, 1)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                # paho keeps the message and repeats it after the next CONNACK.
                log.debug("publishing waits: %s", paho.error_string(info.rc))
            self._sent[info.mid] = event.id
            self._after = max(self._after, event.id)
            room -= 1

    def _on_connect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.reason = _refusal(str(reason))
            return  # the broker closes; on_disconnect counts the failure
        log.info("broker %s: connected", self.address)
        self._connected = self.answered = True
        self._connecting_since = None
        self._failures, self._logged, self._next_state = 0, "", 0.0

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if self._connected:
            self._connected = False
            self._failed(f"connection lost ({reason})")
        else:
            self._failed(self.reason)

    def _on_publish(
        self,
        _client: paho.Client,
        _userdata: object,
        number: int,
        reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        event_id = self._sent.pop(number, None)
        if event_id is None:
            return  # the state
        if reason.is_failure:
            self._after = min(self._after, event_id - 1)
            self._hold_until = time.monotonic() + LONGEST_DELAY_S
            log.error(
                "broker %s refuses events (%s); they are kept; allow %s to publish to %s#",
                self.address,
                reason,
                self.config.username or "anonymous clients",
                self._prefix,
            )
            return
        self._outbox.ack([event_id])

    def _say_goodbye(self) -> None:
        """Publish ``offline`` and disconnect in order, so that the will is not sent."""
        if self._connected:
            body = encode(self._offline("stopped"))
            info = self._client.publish(self._prefix + "state", body, 1, retain=True)
            self._loop_until(
                lambda: (
                    not self._connected
                    or info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS
                    or info.is_published()
                )
            )
        if self._client.socket() is not None:
            self._client.on_disconnect = None
            self._client.disconnect()
            self._loop_until(lambda: self._client.socket() is None)
        self._connected = False

    def _loop_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + GOODBYE_TIMEOUT_S
        while not done() and time.monotonic() < deadline:
            self._client.loop(_TICK_S)

    def _offline(self, reason: str) -> AgentState:
        return AgentState(agent=self.config.client_id, state="offline", reason=reason)

    def _make_client(self, password: str | None) -> paho.Client:
        config = self.config
        is_5 = config.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=config.client_id,
            clean_session=None if is_5 else False,
            protocol=paho.MQTTv5 if is_5 else paho.MQTTv311,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(config.max_in_flight + 2)  # and the states
        if config.username is not None:
            client.username_pw_set(config.username, password)
        if config.tls is not None:
            client.tls_set_context(_tls_context(config))
        client.will_set(
            self._prefix + "state", encode(self._offline("connection lost")), 1, retain=True
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho would leave that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _session_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    return properties


def _tls_context(config: Mqtt) -> ssl.SSLContext:
    tls = config.tls
    assert tls is not None  # noqa: S101 - for the type checker
    for field, path in (
        ("ca_file", tls.ca_file),
        ("cert_file", tls.cert_file),
        ("key_file", tls.key_file),
    ):
        if path is not None and not Path(path).is_file():
            raise InputError(f"mqtt.tls.{field} {path} is no file", "check the path")
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.sslsocket_class = _TlsSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert_file is not None:
            # An empty password: never ask for one on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except (OSError, ValueError) as error:
        raise InputError(
            f"mqtt.tls: certificate or key cannot be used ({error})", "give unencrypted PEM files"
        ) from error
    return context


def _refusal(reason: str) -> str:
    """Say what a CONNACK other than success asks the user to do."""
    text = f"the broker refused the connection ({reason})"
    if any(sign in reason.lower() for sign in ("user name", "password", "authori")):
        text += ", check mqtt.username and the password"
    return text


def _connection_problem(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}), check mqtt.tls.ca_file"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error}), check mqtt.tls and mqtt.port"
    if isinstance(error, socket.gaierror):
        return f"host name not found ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
