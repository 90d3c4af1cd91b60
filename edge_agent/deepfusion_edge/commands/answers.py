"""Where the statuses of a command are heard: a topic of the agent, or its Sparkplug node. Pure."""

import logging
from collections.abc import Callable
from typing import Protocol

from deepfusion_edge.commands.status import STATUS
from deepfusion_edge.report.messages import Incoming, Message, Subscription
from deepfusion_edge.sparkplug.node import NAMESPACE, REBIRTH
from deepfusion_edge.sparkplug.payload import DataType, Metric, Payload, decode, encode, value_of
from deepfusion_edge.sparkplug.wire import WireError

log = logging.getLogger(__name__)

Take = Callable[[bytes], None]


class Answers(Protocol):
    """What the courier listens to.

    Attributes:
        place: where statuses are, for people.
        otherwise: what to look at when none comes.
    """

    place: str
    otherwise: str

    def subscriptions(self, take: Take) -> tuple[Subscription, ...]:
        """Say what to listen to; ``take`` hears the JSON of each status."""
        ...

    def question(self, time_ms: int) -> Message | None:
        """Say what is to be sent first, if anything."""
        ...


class TopicAnswers:
    """Of an agent with the profile ``json``."""

    otherwise = "look at its log; for one with the profile sparkplug, give --sparkplug GROUP/NODE"

    def __init__(self, agent: str) -> None:
        """Listen to ``agent``, as the command addresses it."""
        self._topic = f"{agent}/{STATUS}"
        self.place = f"on {self._topic}"

    def subscriptions(self, take: Take) -> tuple[Subscription, ...]:
        """See ``Answers``."""
        return (Subscription(self._topic, 1, lambda incoming: take(incoming.payload)),)

    def question(self, time_ms: int) -> Message | None:  # noqa: ARG002 - others need it
        """See ``Answers``: nothing."""
        return None


class NodeAnswers:
    """Of an agent with the profile ``sparkplug``: its node's metric ``command/status``.

    Data name a metric by an alias that births alone explain, and nothing is retained: so a rebirth
    is asked for first. Births tell the last status too: of an earlier sending, so it is not taken.
    """

    otherwise = "look at its log; is the primary host online?"

    def __init__(self, group: str, node: str) -> None:
        """Listen to one edge node."""
        self._group, self._node = group, node
        self.place = f"the metric {STATUS} of {group}/{node}"
        self._alias: int | None = None

    def subscriptions(self, take: Take) -> tuple[Subscription, ...]:
        """See ``Answers``."""

        def hear(incoming: Incoming) -> None:
            for text in self._statuses(incoming):
                take(text.encode())

        return tuple(Subscription(self._topic(verb), 0, hear) for verb in ("NBIRTH", "NDATA"))

    def question(self, time_ms: int) -> Message | None:
        """See ``Answers``: the rebirth."""
        yes = value_of(DataType.BOOLEAN, content=True)
        metric = Metric(REBIRTH, None, time_ms, DataType.BOOLEAN, yes)
        return Message(self._topic("NCMD"), encode(Payload(time_ms, (metric,))), qos=0)

    def _topic(self, verb: str) -> str:
        return f"{NAMESPACE}/{self._group}/{verb}/{self._node}"

    def _statuses(self, incoming: Incoming) -> list[str]:
        try:
            metrics = decode(incoming.payload).metrics
        except WireError as error:
            log.debug("no payload on %s: %s", incoming.topic, error)
            return []
        for metric in metrics:
            if metric.name == STATUS:
                self._alias = metric.alias
        return [
            metric.value.content
            for metric in metrics
            if metric.name is None
            and metric.alias == self._alias
            and metric.value is not None
            and isinstance(metric.value.content, str)
        ]
