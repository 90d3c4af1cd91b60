"""Outbox -> broker: each event is forgotten only after its PUBACK.

The publisher runs in one thread that it does not start; paho's own queue never holds more than the
window of unconfirmed events, because paho keeps its queue in memory and drops the newest.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from deepfusion_edge.config import Mqtt
from deepfusion_edge.outbox import Event, Outbox
from deepfusion_edge.report.messages import Subscription
from deepfusion_edge.report.mqtt import Connection
from deepfusion_edge.report.payload import AgentState
from deepfusion_edge.report.profile import JsonProfile

log = logging.getLogger(__name__)

REFUSED_PAUSE_S = 30.0
ACK_DELAY_S = 0.05
_READ_AHEAD = 256


class Publisher:
    """Sends what the outbox holds, and the agent's state, while there is a connection."""

    def __init__(
        self,
        config: Mqtt,
        outbox: Outbox,
        describe: Callable[[], AgentState],
        *,
        password: str | None = None,
        subscriptions: Sequence[Subscription] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is sent before :meth:`run`.

        Args:
            config: the broker.
            outbox: what is sent.
            describe: called for what the retained state says while online.
            password: never logged.
            subscriptions: asked for after every connecting, before anything is published.
            now: seconds since 1970, for the events' time to live.

        Raises:
            InputError: a TLS file is missing or no PEM.
        """
        self.config = config
        self._outbox, self._now = outbox, now
        self._profile = JsonProfile(config, describe)
        self._connection = Connection(
            config,
            password=password,
            will=self._profile.will,
            subscriptions=subscriptions,
            confirmed=self._confirmed,
        )
        self._next_state = self._hold_until = 0.0
        self._session = 0
        self._sent: dict[int, int] = {}  # the connection's message number -> id in the outbox
        self._next: deque[Event] = deque()  # read from the outbox, not yet sent
        self._after = 0
        self._rewind = False
        self._acks: list[int] = []
        self._ack_at = 0.0

    @property
    def address(self) -> str:
        """Host and port, for people."""
        return self._connection.address

    @property
    def answered(self) -> bool:
        """Whether the broker ever accepted a connection."""
        return self._connection.sessions > 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection.up

    @property
    def reason(self) -> str:
        """Why there is no connection now, one line, without secrets."""
        return self._connection.reason

    def run(self, finish: threading.Event, *, drain_timeout_s: float) -> None:
        """Publish until ``finish`` is set, then drain the outbox and say goodbye.

        Returns when all is delivered, or ``drain_timeout_s`` after ``finish``; what is not
        confirmed by then stays in the outbox.
        """
        deadline: float | None = None
        connection = self._connection
        while True:
            if finish.is_set():
                if deadline is None:
                    deadline = time.monotonic() + drain_timeout_s
                    connection.hurry()
                if time.monotonic() >= deadline or (connection.up and not self._outbox.kept):
                    break
            if connection.up:
                self._publish_what_is_due(time.monotonic())
            connection.step()
            self._forget(time.monotonic())
        connection.close(self._profile.goodbye())
        self._forget(float("inf"))

    def _publish_what_is_due(self, moment: float) -> None:
        if self._session != self._connection.sessions:
            self._session = self._connection.sessions
            self._next_state = 0.0
        if moment >= self._next_state:
            self._next_state = moment + self.config.state_interval_s
            self._outbox.expire(now_s=self._now())
            self._connection.send(self._profile.state())
        if moment >= self._hold_until:
            self._fill_window()

    def _fill_window(self) -> None:
        if self._rewind:
            if self._sent:
                return  # in order: what is under way first
            self._rewind, self._after = False, 0
        for _ in range(self._connection.window - len(self._sent)):
            if not self._next:
                self._next.extend(self._outbox.peek(_READ_AHEAD, after=self._after))
                if not self._next:
                    return
                self._after = self._next[-1].id
            event = self._next.popleft()
            number = self._connection.send(self._profile.event(event.channel, event.body))
            self._sent[number] = event.id

    def _confirmed(self, number: int, refusal: str | None) -> None:
        event_id = self._sent.pop(number, None)
        if event_id is None:
            return  # the state
        if refusal is None:
            self._acks.append(event_id)
            return
        self._rewind = True
        self._next.clear()
        self._hold_until = time.monotonic() + REFUSED_PAUSE_S
        log.error(
            "broker %s refuses events (%s); they are kept; allow %s to publish to %s#",
            self.address,
            refusal,
            self.config.username or "anonymous clients",
            self._profile.prefix,
        )

    def _forget(self, moment: float) -> None:
        """Take confirmed events out of the outbox, many in one transaction."""
        if not self._acks:
            self._ack_at = moment + ACK_DELAY_S
        elif moment >= self._ack_at or len(self._acks) >= _READ_AHEAD or not self._sent:
            self._outbox.ack(self._acks)
            self._acks = []
