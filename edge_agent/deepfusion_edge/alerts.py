"""What an operator is told beside the verdicts; a source that keeps failing is summed up."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from msgspec import UNSET

from deepfusion_edge.config import AgentConfig
from deepfusion_edge.observer import Observer
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report import payload

log = logging.getLogger(__name__)

Failure = Literal["unreadable", "model"]
"""Kinds of a frame that gets no verdict; a broken camera has one at every frame."""


@dataclass
class _Series:
    """Failures of one source and kind that nobody was told of.

    Attributes:
        due_s: not before this moment of the monotonic clock.
        number: how many; the fields below are of the first and the last of them.
    """

    due_s: float
    number: int = 0
    since_s: float = 0.0
    reason: str = ""
    subject: payload.Subject | None = None


class Alerts:
    """Puts alerts into the outbox and the log, and tells the observer; for any thread.

    The first failure of a source is told at once. Those that follow within ``alerts.repeat_s``
    wait, and one alert stands for all of them: itself and ``suppressed`` others.
    """

    def __init__(
        self,
        config: AgentConfig,
        outbox: Outbox,
        *,
        observer: Observer | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            config: for the agent's name and how often a failing source is told.
            outbox: where alerts go.
            observer: told of every alert that goes there.
            now: seconds since 1970.
            monotonic: seconds, never set.
        """
        self._agent, self._repeat_s = config.mqtt.client_id, config.alerts.repeat_s
        self._outbox, self._observer = outbox, observer or Observer()
        self._now, self._monotonic = now, monotonic
        self._failing: dict[tuple[str, Failure], _Series] = {}
        self._mutex = threading.Lock()

    def tell(
        self,
        kind: payload.AlertKind,
        reason: str,
        *,
        subject: payload.Subject | None = None,
        about: str | None = None,
    ) -> None:
        """Tell at once, perhaps about the decision with id ``about``.

        Raises:
            StorageError: the outbox cannot be written.
        """
        self._put(kind, reason, subject, about=about)

    def frame_failed(self, kind: Failure, reason: str, subject: payload.Subject) -> None:
        """Tell that a frame gets no verdict: at once, or later together with others.

        Raises:
            StorageError: the outbox cannot be written.
        """
        key, moment = (subject.source, kind), self._monotonic()
        with self._mutex:
            series = self._failing.setdefault(key, _Series(due_s=moment))
            series.since_s = series.since_s if series.number else self._now()
            series.number += 1
            series.reason, series.subject = reason, subject
            waits = moment < series.due_s
        if waits:
            log.info("%s %s/%s: %s", kind, subject.source, subject.frame, reason)
        self.tell_due()

    def tell_due(self, *, ending: bool = False) -> None:
        """Tell what has waited long enough; all that waits, if the run is ``ending``.

        Raises:
            StorageError: the outbox cannot be written.
        """
        moment = self._monotonic()
        told: list[tuple[Failure, _Series]] = []
        with self._mutex:
            for key, series in list(self._failing.items()):
                if moment < series.due_s and not ending:
                    continue
                del self._failing[key]
                if series.number:
                    told.append((key[1], series))
                    self._failing[key] = _Series(due_s=moment + self._repeat_s)
        for kind, series in told:
            self._put(
                kind,
                series.reason,
                series.subject,
                suppressed=series.number - 1,
                since_s=series.since_s,
            )

    def _put(
        self,
        kind: payload.AlertKind,
        reason: str,
        subject: payload.Subject | None,
        *,
        about: str | None = None,
        suppressed: int = 0,
        since_s: float = 0.0,
    ) -> None:
        moment = self._now()
        told: list[payload.Alert] = []

        def render(name: str) -> bytes:
            alert = payload.alert(
                f"{self._agent}-{name}",
                agent=self._agent,
                kind=kind,
                reason=reason,
                time_s=moment,
                subject=subject,
                decision_id=about,
                suppressed=suppressed or UNSET,
                since=payload.rfc3339(since_s) if suppressed else UNSET,
            )
            told.append(alert)
            return payload.encode(alert)

        self._outbox.put("alert", render, now_s=moment)
        where = f"{subject.source}/{subject.frame}: " if subject else ""
        more = f" (and {suppressed} more since {payload.rfc3339(since_s)})" if suppressed else ""
        log.warning("alert %s: %s%s%s", kind, where, reason, more)
        self._observer.alert(told[-1])
