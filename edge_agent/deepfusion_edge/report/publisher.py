"""Outbox -> broker: each event is forgotten only after the broker confirmed it.

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
from deepfusion_edge.report.profile import JsonProfile, Profile
from deepfusion_edge.report.sparkplug import SparkplugProfile
from deepfusion_edge.sparkplug.node import BDSEQ_VALUES

log = logging.getLogger(__name__)

REFUSED_PAUSE_S = 30.0
ACK_DELAY_S = 0.05
CLOCK_STEP_S = 5.0
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
        self._profile = self._make_profile(describe)
        self._connection = Connection(
            config,
            password=password,
            will=self._profile.will,
            subscriptions=(*self._profile.subscriptions, *subscriptions),
            confirmed=self._confirmed,
            clean=self._profile.clean,
        )
        outbox.on_put = self._connection.wake
        self._tidy_at = self._hold_until = 0.0
        self._clock = self._now() - time.monotonic()
        self._session = 0
        self._ready = False
        self._historical = 0  # events up to this one were stored before they could be sent
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
        """Whether events can be delivered now."""
        return self._connection.up and self._profile.lacks is None

    @property
    def reason(self) -> str:
        """Why events cannot be delivered now, one line, without secrets."""
        lacks = self._profile.lacks
        return lacks if self._connection.up and lacks else self._connection.reason

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

    def _make_profile(self, describe: Callable[[], AgentState]) -> Profile:
        if self.config.profile == "json":
            return JsonProfile(self.config, describe)
        return SparkplugProfile(
            self.config,
            describe,
            next_bd_seq=lambda: self._outbox.turn("sparkplug bdSeq", BDSEQ_VALUES),
            now=self._now,
        )

    def _publish_what_is_due(self, moment: float) -> None:
        connection, profile = self._connection, self._profile
        if self._session != connection.sessions:
            self._session = connection.sessions
            self._begin_session()
        if profile.over:
            connection.close(profile.goodbye())
            return
        if moment >= self._tidy_at:
            self._tidy_at = moment + self.config.state_interval_s
            self._tidy(moment)
        for message in profile.due(moment):
            connection.send(message)
        if profile.ready and not self._ready:
            self._historical = self._outbox.last
        self._ready = profile.ready
        if self._ready and moment >= self._hold_until:
            self._fill_window()

    def _begin_session(self) -> None:
        self._tidy_at = 0.0
        self._ready = False
        if self._profile.clean:  # what was not confirmed is lost with the session before
            self._forget(float("inf"))
            self._sent.clear()
            self._next.clear()
            self._rewind, self._after = False, 0
        self._profile.connected()

    def _tidy(self, moment: float) -> None:
        """Drop what is too old; if the clock was set meanwhile, nothing is older for that."""
        clock = self._now() - moment
        if abs(clock - self._clock) > CLOCK_STEP_S:
            self._outbox.move_clock(clock - self._clock)
            self._clock = clock
        self._outbox.expire(now_s=self._now())

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
            number = 0
            for message in self._profile.event(
                event.channel, event.body, historical=event.id <= self._historical
            ):
                number = self._connection.send(message)
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
            "broker %s refuses events (%s); they are kept; allow %s to publish to %s",
            self.address,
            refusal,
            self.config.username or "anonymous clients",
            self._profile.allowed,
        )

    def _forget(self, moment: float) -> None:
        """Take confirmed events out of the outbox, many in one transaction."""
        if not self._acks:
            self._ack_at = moment + ACK_DELAY_S
        elif moment >= self._ack_at or len(self._acks) >= _READ_AHEAD or not self._sent:
            self._outbox.ack(self._acks)
            self._acks = []
