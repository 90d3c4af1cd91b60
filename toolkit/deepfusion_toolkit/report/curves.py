"""Lines of a chart in pixels: a quantity to the right, shares upwards."""

from dataclasses import dataclass
from math import log

from deepfusion_toolkit.report.sections import Curves

LEFT, RIGHT, TOP, BOTTOM = 46.0, 560.0, 12.0, 312.0
LABEL_STEP = 15.0
"""Least distance between two labels."""
WIDTH, LETTER = 760.0, 7.2
"""Of the chart, if its labels leave it so, and what a letter of a label takes."""
MOST_TICKS = 20
"""To the right; of more places only every second, third, ... has one."""


@dataclass(frozen=True)
class Drawn:
    """One line: SVG points, dots, and where its label stands."""

    label: str
    path: str
    dots: list[tuple[float, float]]
    at: float
    strong: bool


@dataclass(frozen=True)
class Chart:
    """Everything the template draws: its width, lines, ticks (position, text) of both axes."""

    width: float
    lines: list[Drawn]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]


def drawn(section: Curves) -> Chart:
    """Place lines and ticks.

    Raises:
        ValueError: no points, a quantity of 0 or less, or a share outside [0, 1].
    """
    points = [p for curve in section.items for p in curve.points]
    if not points or any(x <= 0 or not 0 <= y <= 1 for x, y in points):
        raise ValueError("a chart needs points with x above 0 and shares in [0, 1]")
    places = sorted({x for x, _ in points})
    scale = float if section.even else log
    low, high = scale(places[0]), scale(places[-1])
    width = (high - low) or 1.0

    def x_of(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (scale(value) - low) / width, 1)

    def y_of(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * value, 1)

    ends = sorted(
        ((y_of(c.points[-1][1]), index) for index, c in enumerate(section.items) if c.points),
    )
    at: dict[int, float] = {}
    last = TOP - LABEL_STEP
    for y, index in ends:
        last = at[index] = max(y, last + LABEL_STEP)
    excess = max(0.0, last - BOTTOM)  # the lowest labels move up together
    for order, (_, index) in enumerate(reversed(ends)):
        at[index] = min(at[index], last - excess - order * LABEL_STEP)
    lines = []
    for index, curve in enumerate(section.items):
        if not curve.points:
            continue
        dots = [(x_of(x), y_of(y)) for x, y in curve.points]
        path = " ".join(f"{x},{y}" for x, y in dots)
        lines.append(Drawn(curve.label, path, dots, round(at[index] + 4, 1), curve.strong))
    apart = 1 + len(places) // MOST_TICKS
    ends_at = [line.dots[-1][0] + 12 + LETTER * len(line.label) for line in lines]
    return Chart(
        round(max(WIDTH, *ends_at), 1),
        sorted(lines, key=lambda line: line.strong),
        [(x_of(x), f"{x:g}") for x in places[::apart]],
        [(y_of(share / 4), f"{25 * share} %") for share in range(5)],
    )
