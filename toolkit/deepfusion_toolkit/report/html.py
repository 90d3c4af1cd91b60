"""Sections to one self-contained HTML page: no script, no address, pictures and style inside."""

import math
import os
import re
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from deepfusion_edge.errors import StorageError
from deepfusion_toolkit.report.curves import drawn
from deepfusion_toolkit.report.pictures import data_uri
from deepfusion_toolkit.report.sections import Bar, Cell, HeatMap, Section, Table

_NUMBER = re.compile(r"[-+]?[0-9.,]+( ?%)?( \([0-9]+ of [0-9]+\))?|-|- \(0 of 0\)|")
_LABEL_LENGTH = 26
_TITLE_LENGTH = 120


def page(title: str, sections: Sequence[Section], *, subtitle: str = "", footer: str = "") -> str:
    """Build the page.

    Args:
        title: its name, also shown on top.
        sections: what it shows, in order; the first heading level belongs to the title.
        subtitle: one line below the title.
        footer: one line at the end, for instance product and version.

    Returns:
        HTML text; every text in it is escaped.

    Raises:
        ValueError: a row of a table or heat map has another number of cells than there are
            columns, or a share is outside [0, 1].
    """
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=title[:_TITLE_LENGTH], subtitle=subtitle, footer=footer, sections=list(sections)
        )
    )


def write_html(path: Path, html: str) -> None:
    """Write the page so that the file is whole or as it was before.

    Raises:
        StorageError: the folder cannot be written.
    """
    staged: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, staged = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(html)
        Path(staged).chmod(0o644)
        Path(staged).replace(path)
        staged = None
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror})", "free space or choose another place"
        ) from error
    finally:
        if staged is not None:
            Path(staged).unlink(missing_ok=True)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepfusion_toolkit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        kind=lambda section: type(section).__name__,
        paragraphs=lambda text: [p for p in re.split(r"\n\s*\n", text.strip()) if p],
        numeric=_numeric,
        cell=_cell,
        setting=_setting,
        data_uri=data_uri,
        short=_short,
        percent=lambda share: f"{100 * share:.1f} %",
        extent=_extent,
        heat=_heat,
        drawn=drawn,
    )
    return environment


def _numeric(table: Table) -> list[bool]:
    """Tell for each column whether its cells are numbers, or empty; refuse ragged tables."""
    for row in table.rows:
        _require_width(row, table.columns)
    cells = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    return [
        any(c != "" for c in column)
        and all(isinstance(c, int | float) or _NUMBER.fullmatch(c) for c in column)
        for column in cells
    ]


def _require_width(row: Sequence[object], columns: Sequence[str]) -> None:
    if len(row) != len(columns):
        raise ValueError(f"row of {len(row)} cells under {len(columns)} columns: {row}")


def _heat(section: HeatMap) -> list[list[str]]:
    """Return for each cell how much of the colour it gets, for CSS; none without a figure."""
    for row in section.rows:
        _require_width(row.cells, section.columns)
    return [
        [
            f"{_require_share(0.0 if cell.value is None else cell.value, row.label):.3f}"
            for cell in row.cells
        ]
        for row in section.rows
    ]


def _setting(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Cell) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_LENGTH else text[: _LABEL_LENGTH - 1] + "…"


def _extent(bar: Bar, pixels: float) -> dict[str, float]:
    """Return bar and interval in pixels from the axis' zero."""
    low = bar.value if bar.low is None else bar.low
    high = bar.value if bar.high is None else bar.high
    shares = {"value": bar.value, "low": low, "high": high}
    for name, share in shares.items():
        _require_share(share, f"{name} of bar {bar.label!r}")
    return {name: round(pixels * share, 1) for name, share in shares.items()}


def _require_share(share: float, what: str) -> float:
    if not (math.isfinite(share) and 0 <= share <= 1):
        raise ValueError(f"{what} must be in [0, 1], is {share}")
    return share
