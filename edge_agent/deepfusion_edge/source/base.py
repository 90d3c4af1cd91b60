"""What the agent asks of a source of frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from deepfusion_edge.errors import DeepFusionError
from deepfusion_edge.image import Pixels
from deepfusion_edge.report.messages import Subscription
from deepfusion_edge.report.payload import Connection, SourceState


class Frame(NamedTuple):
    """One frame, or the reason why there is none.

    Attributes:
        source: name of its source.
        name: what the source calls it; valid UTF-8.
        content: encoded bytes (PNG or JPEG), decoded pixels, or why it could not be had.
        captured_s: when the agent got it, seconds since 1970.
        sequence: counts the frames of this source in this run, from 0; failed and dropped ones
            included, so a gap tells how many were dropped.
        max_pixels: larger images must not be decoded.
    """

    source: str
    name: str
    content: bytes | Pixels | DeepFusionError
    captured_s: float
    sequence: int
    max_pixels: int


@dataclass
class Tally:
    """Frames of a source in this run; see ``payload.SourceState``."""

    taken: int = 0
    dropped: int = 0
    late: int = 0
    refused: int = 0
    reconnects: int = 0


class Source:
    """Frames in order. All methods are called by one thread, the feeder's.

    Attributes:
        name: level of the topic.
        poll_interval_s: how long it is worth waiting after a None.
        late_s: frames older than this when their turn comes are dropped; None: none is.
        connection, reason: whether frames can come, and why not.
        subscription: what the publisher's connection is to bring; None: nothing.
        tally: counters; the feeder counts ``taken`` and ``late``, the source the others.
    """

    late_s: float | None = None
    subscription: Subscription | None = None

    def __init__(self, name: str, *, poll_interval_s: float) -> None:
        self.name = name
        self.poll_interval_s = poll_interval_s
        self.connection: Connection = "connected"
        self.reason = ""
        self.tally = Tally()

    def __iter__(self) -> Iterator[Frame | None]:
        """Yield frames; None when there is nothing now; end when there will never be more.

        A frame that cannot be had is yielded with its error: iteration raises nothing and never
        waits for a device.
        """
        raise NotImplementedError

    def tend(self) -> None:
        """Take in what has arrived, drop what is too much; called many times a second."""

    def fileno(self) -> int | None:
        """Give a descriptor that can be read when :meth:`tend` has something to do; None: poll."""
        return None

    def close(self) -> None:
        """Let go of devices and processes; closing twice does nothing."""

    @property
    def state(self) -> SourceState:
        """What the agent's state says of this source."""
        return SourceState(state=self.connection, reason=self.reason, **vars(self.tally))
