"""From many sources to one judge: fair turns, frames prepared beside the inference, drops counted.

The feeder's thread takes one frame of each source in turn, decodes it and holds it ready: one
frame, so that the next one is prepared while the judge is busy and none grows old in a queue.
"""

import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from deepfusion_edge.erosion import Factors
from deepfusion_edge.errors import DeepFusionError
from deepfusion_edge.image import GraphImage, Pixels
from deepfusion_edge.report.payload import Connection, Draw, SourceState
from deepfusion_edge.source.base import Frame, Source

TEND_S = 0.02
_IDLE_S = 0.25


class Prepared(NamedTuple):
    """A frame, ready for the graph.

    Attributes:
        pixels: RGB uint8 [H, W, 3], or why there are none.
        prepare_ms: what decoding, resizing and drawing took.
        image: what the graph takes, or why these pixels do not fit it; None if there are no pixels.
        draw, factors: of the members that may judge it; None if there is no image.
        setting: for which of the judge's settings; another one has to prepare it anew.
    """

    frame: Frame
    pixels: Pixels | DeepFusionError
    prepare_ms: float
    image: GraphImage | DeepFusionError | None = None
    draw: Draw | None = None
    factors: Factors | None = None
    setting: object = None


class Feed:
    """All sources of a run. :meth:`run` belongs to the feeder's thread, the rest to any."""

    def __init__(
        self,
        sources: Sequence[Source],
        prepare: Callable[[Frame], Prepared],
        *,
        changed: Callable[[str, SourceState], None] = lambda _name, _state: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is read before :meth:`run`.

        Args:
            sources: in the order of their turns.
            prepare: decodes a frame; raises nothing.
            changed: told when a source's connection is another one, and at the beginning.
            now: seconds since 1970, as frames are stamped.
        """
        self._sources = {source.name: source for source in sources}
        self._prepare, self._changed, self._now = prepare, changed, now
        self._told: dict[str, Connection] = {}
        self._held: Prepared | None = None
        self._ended = False
        self._tended = time.monotonic()
        self._changing = threading.Condition()

    def states(self) -> dict[str, SourceState]:
        """Say how each source is."""
        return {name: source.state for name, source in self._sources.items()}

    @property
    def unfed_s(self) -> float:
        """Seconds since the sources were last looked at; 0 when they need not be any more."""
        return 0.0 if self._ended else time.monotonic() - self._tended

    @property
    def ended(self) -> bool:
        """Whether no frame will ever come again."""
        return self._ended and self._held is None

    def take(self, timeout_s: float) -> Prepared | None:
        """Give the next frame to the judge; None if none comes in time.

        A frame that has grown late while it was held is dropped and counted here.
        """
        with self._changing:
            self._changing.wait_for(lambda: self._held is not None or self._ended, timeout_s)
            prepared, self._held = self._held, None
            self._changing.notify_all()
        if prepared is None or self._is_late(prepared.frame):
            return None
        self._sources[prepared.frame.source].tally.taken += 1
        return prepared

    def run(self, finish: threading.Event) -> None:
        """Feed until all sources have ended or ``finish`` is set; then close them."""
        try:
            for frame in self._turns(finish):
                prepared = self._prepare(frame)
                with self._changing:
                    self._held = prepared
                    self._changing.notify_all()
        finally:
            for source in self._sources.values():
                source.close()
            with self._changing:
                self._ended = True
                self._changing.notify_all()

    def _turns(self, finish: threading.Event) -> Iterator[Frame]:
        """Take one frame of each source in turn, each only when there is room for it."""
        alive = [(source, iter(source)) for source in self._sources.values()]
        while alive and not finish.is_set():
            idle = True
            for turn in list(alive):
                if not self._wait_for_room(finish):
                    return
                source, frames = turn
                try:
                    frame = next(frames)
                except StopIteration:
                    alive.remove(turn)
                    self._tell(source)
                    continue
                if frame is not None and not self._is_late(frame):
                    idle = False
                    yield frame
            self._tend()
            if idle and alive:
                _rest([source for source, _ in alive])

    def _wait_for_room(self, finish: threading.Event) -> bool:
        """Tend the sources until the judge has taken what is held; False when the run ends."""
        while not finish.is_set():
            with self._changing:
                if self._changing.wait_for(lambda: self._held is None, TEND_S):
                    return True
            self._tend()
        return False

    def _tend(self) -> None:
        self._tended = time.monotonic()
        for source in self._sources.values():
            source.tend()
            self._tell(source)

    def _tell(self, source: Source) -> None:
        if self._told.get(source.name) != source.connection:
            self._told[source.name] = source.connection
            self._changed(source.name, source.state)

    def _is_late(self, frame: Frame) -> bool:
        source = self._sources[frame.source]
        late = source.late_s is not None and self._now() - frame.captured_s > source.late_s
        if late:
            with self._changing:
                source.tally.late += 1
        return late


def _rest(sources: Sequence[Source]) -> None:
    """Wait until a source may have something."""
    timeout_s = min(_IDLE_S, *(source.poll_interval_s / 4 for source in sources))
    poller = select.poll()
    for source in sources:
        number = source.fileno()
        if number is not None:
            poller.register(number, select.POLLIN)
    poller.poll(1000 * timeout_s)
