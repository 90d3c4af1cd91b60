"""What the agent asks of a source of frames."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from deepfusion_edge.errors import DeepFusionError
from deepfusion_edge.image import Pixels


class Frame(NamedTuple):
    """One frame, or the reason why there is none.

    Attributes:
        source: name of its source.
        name: what the source calls it; valid UTF-8.
        content: encoded bytes (PNG or JPEG), decoded pixels, or why it could not be had.
        captured_s: when the agent got it, seconds since 1970.
        sequence: counts the frames of this source in this run, from 0, failed ones included.
        max_pixels: larger images must not be decoded.
    """

    source: str
    name: str
    content: bytes | Pixels | DeepFusionError
    captured_s: float
    sequence: int
    max_pixels: int


class Source(Protocol):
    """Frames in order.

    Attributes:
        name: level of the topic.
        poll_interval_s: how long it is worth waiting after a None.
    """

    name: str
    poll_interval_s: float

    def __iter__(self) -> Iterator[Frame | None]:
        """Yield frames; None when there is nothing now; end when there will never be more.

        A frame that cannot be had is yielded with its error: iteration itself raises nothing.
        """
        ...
