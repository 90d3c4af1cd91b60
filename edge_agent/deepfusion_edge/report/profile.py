"""Which message says what: what every profile does, and the ``json`` profile. Pure.

Topics of ``json``, below ``<base_topic>/<client_id>/``: ``state`` (retained, also the Last Will),
``decision/<source>``, ``alert`` and ``command/status``.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from deepfusion_edge.config import Mqtt
from deepfusion_edge.report.home_assistant import discovery
from deepfusion_edge.report.messages import Message, Subscription
from deepfusion_edge.report.payload import AgentState, encode


class Profile(Protocol):
    """What the publisher asks; all of it in the publisher's thread.

    Attributes:
        clean: whether every connection begins anew and the broker keeps nothing of it.
        subscriptions: what the profile itself listens to.
        allowed: filter of the topics that the broker must let this agent publish to.
    """

    clean: bool
    subscriptions: tuple[Subscription, ...]
    allowed: str

    @property
    def ready(self) -> bool:
        """Whether events may be sent over this connection now."""
        ...

    @property
    def lacks(self) -> str | None:
        """Say who is not there although the broker is; None if nobody is missed."""
        ...

    @property
    def over(self) -> bool:
        """Whether this connection must end, with a goodbye, and another begin."""
        ...

    def will(self) -> Message:
        """Say what the broker tells when the connection about to be made is lost."""
        ...

    def connected(self) -> None:
        """Take note of a new connection."""
        ...

    def due(self, moment_s: float) -> Iterable[Message]:
        """Say what is to be said now, beside the events; ``moment_s`` never goes backwards."""
        ...

    def event(self, channel: str, body: bytes, *, historical: bool) -> Iterable[Message]:
        """Spell an event of the outbox; the last message holds it.

        Args:
            channel: end of its topic.
            body: JSON.
            historical: stored before it could be sent.
        """
        ...

    def goodbye(self) -> Message:
        """Say what is said before an orderly end."""
        ...


class JsonProfile:
    """Events as they are, confirmed one by one; the retained state says online or offline."""

    clean = over = False
    ready = True
    lacks: str | None = None
    subscriptions: tuple[Subscription, ...] = ()

    def __init__(self, config: Mqtt, describe: Callable[[], AgentState]) -> None:
        """Publish as ``config.client_id``; ``describe`` gives the state while online."""
        self._config, self._describe = config, describe
        self._prefix = f"{config.base_topic}/{config.client_id}/"
        self.allowed = self._prefix + "#"
        self._next_state_s = 0.0
        self._announced: tuple[str, ...] | None = None

    def will(self) -> Message:
        """Say that the agent is offline."""
        return self._offline("connection lost")

    def connected(self) -> None:
        """Say everything again."""
        self._next_state_s, self._announced = 0.0, None

    def due(self, moment_s: float) -> Iterable[Message]:
        """Say how the agent is, after connecting and from time to time."""
        if moment_s < self._next_state_s:
            return
        self._next_state_s = moment_s + self._config.state_interval_s
        state = self._describe()
        if self._config.home_assistant is not None:
            sources = tuple(state.sources or ())
            if sources != self._announced:
                self._announced = sources
                yield from discovery(self._config.home_assistant, self._prefix, state)
        yield Message(self._prefix + "state", encode(state), retain=True)

    def event(self, channel: str, body: bytes, *, historical: bool) -> Iterable[Message]:
        """Publish it as it is: its own time says how old it is."""
        del historical
        return (Message(self._prefix + channel, body),)

    def goodbye(self) -> Message:
        """Say that the agent was stopped."""
        return self._offline("stopped")

    def _offline(self, reason: str) -> Message:
        state = AgentState(agent=self._config.client_id, state="offline", reason=reason)
        return Message(self._prefix + "state", encode(state), retain=True)
