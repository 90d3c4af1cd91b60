"""Who is told what the loop does: health, the status page, snapshots."""

import contextlib
import logging
import queue
import threading
from collections.abc import Sequence
from typing import NamedTuple

from deepfusion_edge.fusion import Verdict
from deepfusion_edge.image import Pixels
from deepfusion_edge.report.payload import AgentState, Alert, SourceState
from deepfusion_edge.source.base import Frame

log = logging.getLogger(__name__)

_TURN_S = 0.1


class Timing(NamedTuple):
    """Where a frame's time went, in milliseconds.

    Attributes:
        prepare_ms: decoding and resizing, done beside the inference of the frame before.
        infer_ms: all runs of the graph.
        total_ms: from bytes to verdict, without waiting: what decisions call ``latency_ms``.
        age_ms: from capture to verdict, waiting included, by the wall clock.
    """

    prepare_ms: float
    infer_ms: float
    total_ms: float
    age_ms: float


class Judged(NamedTuple):
    """One frame and what became of it.

    Attributes:
        frame: as its source gave it.
        pixels: RGB uint8 [H, W, 3]; None if it could not be read.
        verdict: None if it could not be read, or the graph failed on it.
        class_name: of the verdict; None without one.
        problem: why there is no verdict; None with one.
        event: id of the decision; None without one.
    """

    frame: Frame
    pixels: Pixels | None
    verdict: Verdict | None
    class_name: str | None
    problem: str | None
    event: str | None
    timing: Timing


class Observer:
    """Nobody: override what you want to hear.

    Methods are called in the thread where it happened and must be quick; only ``judged`` may take
    as long as a frame does, where :class:`Handed` stands before it. What they raise is logged and
    goes no further.
    """

    def judged(self, judged: Judged) -> None:
        """Hear of a frame that got its verdict, or none."""

    def source(self, name: str, state: SourceState) -> None:
        """Hear that a source was connected, lost or ended."""

    def alert(self, alert: Alert) -> None:
        """Hear of an alert that went into the outbox."""

    def state(self, state: AgentState) -> None:
        """Hear what the retained state says, whenever it is renewed."""


class Everyone(Observer):
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def judged(self, judged: Judged) -> None:
        """Tell all of them."""
        self._tell("judged", judged)

    def source(self, name: str, state: SourceState) -> None:
        """Tell all of them."""
        self._tell("source", name, state)

    def alert(self, alert: Alert) -> None:
        """Tell all of them."""
        self._tell("alert", alert)

    def state(self, state: AgentState) -> None:
        """Tell all of them."""
        self._tell("state", state)

    def _tell(self, event: str, *details: object) -> None:
        for observer in self._observers:
            try:
                getattr(observer, event)(*details)
            except Exception:  # noqa: PERF203 - one that fails must not silence the others
                log.exception("%s failed to hear of %s", type(observer).__name__, event)


class Handed(Observer):
    """Hands frames over to a thread that tells another observer, beside the next inference."""

    def __init__(self, observer: Observer, *, room: int = 64) -> None:
        """Prepare; frames are told while :meth:`run` runs.

        Args:
            observer: who is told.
            room: frames that may wait; then the judging thread does.
        """
        self._observer = observer
        self._waiting: queue.Queue[Judged] = queue.Queue(room)

    def judged(self, judged: Judged) -> None:
        """Hand a frame over."""
        self._waiting.put(judged)

    def run(self, finish: threading.Event) -> None:
        """Tell until ``finish`` is set and nothing waits any more."""
        while not (finish.is_set() and self._waiting.empty()):
            with contextlib.suppress(queue.Empty):
                judged = self._waiting.get(timeout=_TURN_S)
                self._observer.judged(judged)

    def source(self, name: str, state: SourceState) -> None:
        """Tell at once."""
        self._observer.source(name, state)

    def alert(self, alert: Alert) -> None:
        """Tell at once."""
        self._observer.alert(alert)

    def state(self, state: AgentState) -> None:
        """Tell at once."""
        self._observer.state(state)
