"""What the line did lately: for baselines, probations and snapshots."""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable

from deepfusion_edge.bundle.probation import Seen
from deepfusion_edge.observer import Judged, Observer

FRAMES = 1000


class Window(Observer):
    """Hears of every frame; its figures are of the last 1000, its counts since :meth:`begin`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; ``clock`` counts seconds."""
        self._mutex = threading.Lock()
        self._clock = clock
        self._last: dict[str, Judged] = {}
        self._newest: str | None = None
        self.begin()

    def begin(self) -> None:
        """Forget what was: another bundle judges."""
        with self._mutex:
            self._since = self._clock()
            self._frames = self._failed = 0
            self._rejected: deque[bool] = deque(maxlen=FRAMES)
            self._latencies_ms: deque[float] = deque(maxlen=FRAMES)

    def judged(self, judged: Judged) -> None:
        """Count a frame; one that could not be read is no fault of the bundle."""
        if judged.pixels is None:
            return
        with self._mutex:
            self._newest = judged.frame.source
            self._last[judged.frame.source] = judged
            self._frames += 1
            self._failed += judged.verdict is None
            self._rejected.append(judged.verdict is None or judged.verdict.state == "reject")
            self._latencies_ms.append(judged.timing.total_ms)

    def seen(self) -> Seen:
        """Return counts and figures since :meth:`begin`."""
        with self._mutex:
            recent = len(self._rejected)
            return Seen(
                frames=self._frames,
                failed=self._failed,
                rejected=sum(self._rejected) / recent if recent else 0.0,
                latency_ms=statistics.median(self._latencies_ms) if recent else 0.0,
                elapsed_s=self._clock() - self._since,
            )

    def last(self, source: str | None) -> Judged | None:
        """Return the last frame of that source, or of any, that could be read."""
        with self._mutex:
            name = self._newest if source is None else source
            return None if name is None else self._last.get(name)
