"""What happened lately, in bounded memory, for the status page."""

import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from deepfusion_edge.health.metrics import outcome
from deepfusion_edge.image import Pixels, thumbnail
from deepfusion_edge.observer import Judged, Observer
from deepfusion_edge.report.payload import Alert, rfc3339

LAST = 18
NOTABLE = 12
ALERTS = 30
SIDE = 160
STEP_S = 15
STEPS = 240
MOST_NAME = 200
PICTURES_A_SECOND = {False: 2.0, True: 8.0}
"""Of accepted frames, and of the others: a busy line must not feel that somebody looks."""


class Seen(msgspec.Struct, frozen=True):
    """A frame on the page.

    Attributes:
        number: counts all frames of this run, from 1; names its picture.
        state: ``accept``, ``suspect``, ``reject``, ``unreadable`` or ``failed``.
        picture: whether there is a thumbnail.
    """

    number: int
    source: str
    frame: str
    time: str
    state: str
    class_name: str | None
    confidence: float | None
    feature_variance: float | None
    disagreement: float | None
    members: int | None
    latency_ms: float
    problem: str | None
    picture: bool


class Told(msgspec.Struct, frozen=True):
    """An alert on the page; it stands for ``suppressed`` others since ``since``."""

    time: str
    kind: str
    reason: str
    source: str | None
    frame: str | None
    suppressed: int
    since: str | None


class Step(msgspec.Struct):
    """``STEP_S`` seconds of the trend.

    Attributes:
        at: when it begins, seconds since 1970, a multiple of ``STEP_S``.
        frames: that came in it.
        notable: among them, those not accepted.
        judged: among them, those with a verdict; the sums below are over these.
    """

    at: int
    frames: int = 0
    notable: int = 0
    judged: int = 0
    latency_ms: float = 0.0
    latency_ms_max: float = 0.0
    disagreement: float = 0.0
    disagreement_max: float = 0.0


class Board(Observer):
    """Remembers the last frames, alerts and an hour of trend; its methods may run in any thread."""

    def __init__(self, *, thumbnails: bool, now: Callable[[], float] = time.time) -> None:
        self.begun_s = now()
        self._thumbnails, self._now = thumbnails, now
        self._mutex = threading.Lock()
        self._number = 0
        self._counts: dict[str, dict[str, int]] = {}
        self._last_s: dict[str, float] = {}
        self._last: deque[Seen] = deque(maxlen=LAST)
        self._notable: deque[Seen] = deque(maxlen=NOTABLE)
        self._alerts: deque[Told] = deque(maxlen=ALERTS)
        self._steps: deque[Step] = deque(maxlen=STEPS)
        self._pictures: dict[int, bytes] = {}
        self._picture_due_s = {True: 0.0, False: 0.0}

    def judged(self, judged: Judged) -> None:
        """Remember a frame."""
        kind, moment = outcome(judged), self._now()
        picture = self._picture(judged.pixels, moment, notable=kind != "accept")
        with self._mutex:
            self._number += 1
            seen = _seen(self._number, judged, kind, picture=picture is not None)
            self._last.append(seen)
            if kind != "accept":
                self._notable.append(seen)
            if picture is not None:
                self._pictures[seen.number] = picture
            shown = {one.number for one in (*self._last, *self._notable)}
            for number in [n for n in self._pictures if n not in shown]:
                del self._pictures[number]
            counts = self._counts.setdefault(seen.source, {})
            counts[kind] = counts.get(kind, 0) + 1
            self._last_s[seen.source] = judged.frame.captured_s
            self._follow(seen, moment)

    def alert(self, alert: Alert) -> None:
        """Remember an alert."""
        told = Told(
            time=alert.time,
            kind=alert.kind,
            reason=alert.reason,
            source=alert.source,
            frame=alert.frame[:MOST_NAME] if alert.frame else None,
            suppressed=alert.suppressed or 0,
            since=alert.since or None,
        )
        with self._mutex:
            self._alerts.append(told)

    def picture(self, number: int) -> bytes | None:
        """Give the thumbnail of a frame on the board, a JPEG."""
        with self._mutex:
            return self._pictures.get(number)

    def show(self) -> dict[str, object]:
        """Give all of it, newest first; the trend oldest first."""
        with self._mutex:
            return {
                "last": list(reversed(self._last)),
                "notable": list(reversed(self._notable)),
                "alerts": list(reversed(self._alerts)),
                "counts": {name: dict(counts) for name, counts in self._counts.items()},
                "last_s": dict(self._last_s),
                "trend": [msgspec.to_builtins(step) for step in self._steps],
                "step_s": STEP_S,
                "steps": STEPS,
            }

    def _picture(self, pixels: Pixels | None, moment: float, *, notable: bool) -> bytes | None:
        """Make a thumbnail, but not so often that the line would notice."""
        if not self._thumbnails or pixels is None:
            return None
        # A clock that was set back must not stop the pictures.
        due_s = self._picture_due_s[notable]
        rate = PICTURES_A_SECOND[notable]
        if due_s - 1 / rate <= moment < due_s:
            return None
        self._picture_due_s[notable] = moment + 1 / rate
        return thumbnail(pixels, SIDE)

    def _follow(self, seen: Seen, moment: float) -> None:
        at = int(moment) // STEP_S * STEP_S
        if not self._steps or self._steps[-1].at != at:
            self._steps.append(Step(at))
        step = self._steps[-1]
        step.frames += 1
        step.notable += seen.state != "accept"
        if seen.disagreement is None:  # no verdict: a broken camera must not look like a fast line
            return
        step.judged += 1
        step.latency_ms += seen.latency_ms
        step.latency_ms_max = max(step.latency_ms_max, seen.latency_ms)
        step.disagreement += seen.disagreement
        step.disagreement_max = max(step.disagreement_max, seen.disagreement)


def _seen(number: int, judged: Judged, kind: str, *, picture: bool) -> Seen:
    frame, verdict = judged.frame, judged.verdict
    return Seen(
        number=number,
        source=frame.source,
        frame=frame.name[:MOST_NAME],
        time=rfc3339(frame.captured_s),
        state=kind,
        class_name=judged.class_name,
        confidence=verdict.confidence if verdict else None,
        feature_variance=verdict.feature_variance if verdict else None,
        disagreement=verdict.disagreement if verdict else None,
        members=verdict.members if verdict else None,
        latency_ms=round(judged.timing.total_ms, 3),
        problem=judged.problem,
        picture=picture,
    )
