"""The pieces of a report page: plain values, no markup; `html` draws them.

Text is shown as it is: class names, file names and payloads may hold anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from deepfusion_edge.image import Pixels

Tone = Literal["plain", "good", "bad", "warn"]
"""What a value means to the reader; never the only sign of it."""

Cell = str | int | float


@dataclass(frozen=True)
class Text:
    """Paragraphs, split at empty lines."""

    body: str
    heading: str = ""


@dataclass(frozen=True)
class Warnings:
    """What makes the figures doubtful, one sentence each."""

    items: Sequence[str]
    heading: str = "Before you read on"


@dataclass(frozen=True)
class Figure:
    """One key figure: what it is, the value in large type, a remark below it."""

    label: str
    value: str
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Figures:
    """A row of key figures."""

    items: Sequence[Figure]
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; columns that hold numbers only are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    heading: str = ""
    note: str = ""


@dataclass(frozen=True)
class HeatCell:
    """A share in [0, 1] that colours its cell, with lines below it; no figure is a dash.

    ``mark`` is a word for a cell that must not be read like the others.
    """

    value: float | None
    lines: Sequence[str] = ()
    mark: str = ""


@dataclass(frozen=True)
class HeatRow:
    """A row of the heat map: what it is, lines below that, and a cell for each column."""

    label: str
    cells: Sequence[HeatCell]
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class HeatMap:
    """A matrix of shares, the darker the larger; the figures are always there too."""

    corner: str
    columns: Sequence[str]
    rows: Sequence[HeatRow]
    heading: str = ""
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """A share in [0, 1] with its confidence interval and the number of images behind it."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
    tone: Tone = "plain"
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """A bar chart of shares on an axis from 0 to 100 %."""

    items: Sequence[Bar]
    heading: str = ""
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a chart: points (x above 0, share in [0, 1]); a strong one is drawn in colour."""

    label: str
    points: Sequence[tuple[float, float]]
    strong: bool = False


@dataclass(frozen=True)
class Curves:
    """Shares against a quantity, each line labelled at its end.

    The axis is logarithmic, or not where the quantity is counted in ``even`` steps.
    """

    items: Sequence[Curve]
    x_label: str
    heading: str = ""
    note: str = ""
    even: bool = False


@dataclass(frozen=True)
class Prediction:
    """What a model said of a picture: by whom, which class, and whether that is right."""

    by: str
    label: str
    right: bool
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image, uint8 [H, W, 3], with what it shows and what was predicted of it."""

    pixels: Pixels
    caption: str
    predictions: Sequence[Prediction] = ()


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one subject side by side, for instance clean, perturbation, attacked."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Strip:
    """Rows of pictures."""

    rows: Sequence[PictureRow]
    heading: str = ""
    note: str = ""


@dataclass(frozen=True)
class Message:
    """One message as it was received: topic and payload text."""

    topic: str
    payload: str
    note: str = ""


@dataclass(frozen=True)
class Messages:
    """Messages in the order of their arrival."""

    items: Sequence[Message]
    heading: str = ""
    note: str = ""


@dataclass(frozen=True)
class Settings:
    """Names and values: how the result came about."""

    items: Mapping[str, object]
    heading: str = "Settings"


Section = Text | Warnings | Figures | Table | HeatMap | Bars | Curves | Strip | Messages | Settings


def share(hits: int, total: int) -> str:
    """Write a share with its counts: ``93.3 % (56 of 60)``; a dash where there is nothing."""
    return f"{100 * hits / total:.1f} % ({hits} of {total})" if total else "- (0 of 0)"
