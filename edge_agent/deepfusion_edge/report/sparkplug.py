"""The ``sparkplug`` profile: the agent as an edge node, each source as its device. Pure.

Births first, then data with QoS 0 and nothing retained. With a primary host, nothing is said before
its STATE is online, and a STATE that is offline ends the session: events wait in the outbox and are
flushed as historical.
"""

import datetime as dt
import logging
from collections.abc import Callable, Iterable

import msgspec

from deepfusion_edge.config import Mqtt
from deepfusion_edge.report.messages import Incoming, Message, Subscription
from deepfusion_edge.report.payload import AgentState, Alert, Decision
from deepfusion_edge.sparkplug.node import (
    BDSEQ_VALUES,
    NAMESPACE,
    REBIRTH,
    Content,
    Node,
    Sent,
)
from deepfusion_edge.sparkplug.payload import DataType, decode
from deepfusion_edge.sparkplug.wire import WireError

log = logging.getLogger(__name__)

LOOK_S = 1.0
MAX_STATE_BYTES = 1024
MAX_COMMAND_BYTES = 2**16

_ALERT = {
    "alert/id": DataType.STRING,
    "alert/kind": DataType.STRING,
    "alert/reason": DataType.STRING,
}
NODE_METRICS = {
    "state/reason": DataType.STRING,
    "bundle/id": DataType.STRING,
    "bundle/digest": DataType.STRING,
    "bundle/sequence": DataType.INT64,
    "provider": DataType.STRING,
    "outbox/received": DataType.INT64,
    "outbox/sent": DataType.INT64,
    "outbox/dropped": DataType.INT64,
    "outbox/expired": DataType.INT64,
    "outbox/kept": DataType.INT64,
    "outbox/disk_full": DataType.BOOLEAN,
    "command/status": DataType.STRING,
    "event/json": DataType.STRING,
    **_ALERT,
}
DEVICE_METRICS = {
    "decision/id": DataType.STRING,
    "decision/frame": DataType.STRING,
    "decision/sequence": DataType.INT64,
    "decision/bundle": DataType.STRING,
    "decision/bundle_sequence": DataType.INT64,
    "decision/label": DataType.INT32,
    "decision/class": DataType.STRING,
    "decision/confidence": DataType.DOUBLE,
    "decision/state": DataType.STRING,
    "decision/feature_variance": DataType.DOUBLE,
    "decision/disagreement": DataType.DOUBLE,
    "decision/members": DataType.INT32,
    "decision/seed": DataType.INT64,
    "decision/stream": DataType.INT64,
    "decision/latency_ms": DataType.DOUBLE,
    **_ALERT,
    "alert/decision": DataType.STRING,
    "alert/frame": DataType.STRING,
    "alert/suppressed": DataType.INT64,
    "alert/since": DataType.STRING,
}


class HostState(msgspec.Struct, frozen=True):
    """STATE of a host application: whether it is there, and since when (ms since 1970)."""

    online: bool
    timestamp: int


class SparkplugProfile:
    """One edge node."""

    clean = True

    def __init__(
        self,
        config: Mqtt,
        describe: Callable[[], AgentState],
        *,
        next_bd_seq: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        """Be a node.

        Args:
            config: with the section ``sparkplug``.
            describe: gives the agent's state.
            next_bd_seq: gives a number from 0 to 255, one more at each call, over restarts too.
            now: seconds since 1970.
        """
        ids = config.sparkplug
        self._interval_s = config.state_interval_s
        self._describe, self._next_bd_seq, self._now = describe, next_bd_seq, now
        self._node = Node(
            ids.group_id, ids.edge_node_id or config.client_id, NODE_METRICS, DEVICE_METRICS
        )
        self.allowed = f"{NAMESPACE}/{ids.group_id}/#"
        self._rebirth_topic = self._node.topic("NCMD")
        listen = [Subscription(self._rebirth_topic, 1, self._command, MAX_COMMAND_BYTES)]
        self._primary_host = ids.primary_host
        if ids.primary_host is not None:
            state = f"{NAMESPACE}/STATE/{ids.primary_host}"
            listen.insert(0, Subscription(state, 1, self._host_state, MAX_STATE_BYTES))
        self.subscriptions = tuple(listen)
        self._host: HostState | None = None
        self._host_seen = False  # in this session
        self._born = False
        self._over = False
        self._next_look_s = self._next_data_s = 0.0

    @property
    def ready(self) -> bool:
        """Whether the node was born in this session, and is not asked to be born again."""
        return self._born and not self._over

    @property
    def lacks(self) -> str | None:
        """Say that the primary host is not online."""
        if self._primary_host is None or (self._host_seen and not self._over):
            return None
        return f"the primary host {self._primary_host} is not online"

    @property
    def over(self) -> bool:
        """Whether the primary host went offline."""
        return self._over

    def will(self) -> Message:
        """Take the next session's number and say its NDEATH."""
        self._node.bd_seq = self._next_bd_seq() % BDSEQ_VALUES
        return self._death()

    def connected(self) -> None:
        """Begin a session: not born, and nothing known of the host."""
        self._born = self._over = self._host_seen = False

    def due(self, moment_s: float) -> Iterable[Message]:
        """Be born when that is allowed or asked for; then tell what changed."""
        if self.lacks is not None:
            return
        if self._born and moment_s < self._next_look_s:
            return
        state, time_ms = self._describe(), self._time_ms()
        self._next_look_s = moment_s + LOOK_S
        values = _node_values(state)
        if not self._born:
            alive = sorted(self._node.devices)
            self._node.know(values, time_ms)
            yield _message(self._node.birth(time_ms))
            self._born, self._next_data_s = True, moment_s + self._interval_s
            for name in alive:
                yield _message(self._node.device_birth(name, time_ms))
        elif moment_s >= self._next_data_s:
            self._next_data_s = moment_s + self._interval_s
            changed = self._node.know(values, time_ms)
            if changed:
                told = {name: values[name] for name in changed}
                yield _message(self._node.data(told, time_ms, time_ms, historical=False))
        for name, source in (state.sources or {}).items():
            gone = source.state in {"lost", "reconnecting", "ended"}
            if not gone and name not in self._node.devices:
                yield _message(self._node.device_birth(name, time_ms))
            elif gone and name in self._node.devices:
                yield _message(self._node.device_death(name, time_ms))

    def event(self, channel: str, body: bytes, *, historical: bool) -> Iterable[Message]:
        """Say an event with the metrics of its source; of the node, if it has none."""
        source, values, taken_ms = _event_values(channel, body, self._time_ms())
        time_ms = self._time_ms()
        if source is None:
            yield _message(self._node.data(values, taken_ms, time_ms, historical=historical))
            return
        if source not in self._node.devices:
            yield _message(self._node.device_birth(source, time_ms))
        yield _message(
            self._node.device_data(source, values, taken_ms, time_ms, historical=historical)
        )

    def goodbye(self) -> Message:
        """Say the NDEATH oneself: after an orderly DISCONNECT no broker sends the will."""
        return self._death()

    def _death(self) -> Message:
        sent = self._node.death(self._time_ms())
        return Message(sent.topic, sent.body, qos=1)

    def _command(self, incoming: Incoming) -> None:
        if incoming.retained:
            log.warning("a retained command on %s is ignored", incoming.topic)
            return
        try:
            metrics = decode(incoming.payload).metrics
        except WireError as error:
            log.warning("a command on %s is no Sparkplug payload: %s", incoming.topic, error)
            return
        for metric in metrics:
            if metric.name != REBIRTH:
                log.warning("a command on %s is not known; ignored", incoming.topic)
            elif metric.value is not None and metric.value.content is True:
                self._born = False

    def _host_state(self, incoming: Incoming) -> None:
        try:
            state = msgspec.json.decode(incoming.payload, type=HostState)
        except (ValueError, msgspec.MsgspecError, RecursionError):
            log.warning("%s is no STATE of a Sparkplug 3.0 host; ignored", incoming.topic)
            return
        if self._host is not None and state.timestamp < self._host.timestamp:
            return  # older than what is known
        self._host = state
        if state.online:
            self._host_seen = True
        elif self._host_seen:
            log.warning("%s is offline; events are kept", incoming.topic)
            self._over = True

    def _time_ms(self) -> int:
        return max(0, int(1000 * self._now()))


def _message(sent: Sent) -> Message:
    return Message(sent.topic, sent.body, qos=0)


def _node_values(state: AgentState) -> dict[str, Content]:
    bundle, counters = state.bundle, state.counters or {}
    values: dict[str, Content] = {
        "state/reason": state.reason,
        "bundle/id": bundle.id if bundle else None,
        "bundle/digest": bundle.digest if bundle else None,
        "bundle/sequence": bundle.sequence if bundle else None,
        "provider": state.provider,
    }
    for name in NODE_METRICS:
        if name.startswith("outbox/"):
            values[name] = counters.get(name.removeprefix("outbox/"))
    return values


def _event_values(
    channel: str, body: bytes, now_ms: int
) -> tuple[str | None, dict[str, Content], int]:
    """Return source, values and time (ms) of an event; what has no metrics goes as JSON."""
    kind = channel.split("/", 1)[0]
    try:
        if kind == "decision":
            decision = msgspec.json.decode(body, type=Decision)
            return decision.source, _values(decision, DEVICE_METRICS, kind), _ms(decision.time)
        if kind == "alert":
            alert = msgspec.json.decode(body, type=Alert)
            metrics = DEVICE_METRICS if alert.source else NODE_METRICS
            return alert.source, _values(alert, metrics, kind), _ms(alert.time)
    except (ValueError, msgspec.MsgspecError) as error:
        # Written by another version of the agent: it must not block what comes after it.
        log.warning("an event of %s is no %s of this version: %s", channel, kind, error)
    text = body.decode(errors="replace")
    return None, {"command/status" if channel == "command/status" else "event/json": text}, now_ms


def _values(event: Decision | Alert, metrics: dict[str, DataType], kind: str) -> dict[str, Content]:
    fields = msgspec.to_builtins(event)
    names = (name for name in metrics if name.startswith(f"{kind}/"))
    return {name: fields.get(name.removeprefix(f"{kind}/")) for name in names}


def _ms(time: str) -> int:
    return int(1000 * dt.datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp())
