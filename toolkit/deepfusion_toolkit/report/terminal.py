"""What a user sees while a command works: progress on stderr, results as tables on stdout.

A terminal gets a bar with the time left; a log gets a plain line every few seconds instead.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from deepfusion_toolkit.report.sections import Cell

LOG_EVERY_S = 5.0
_WIDE = 500
_FIGURE = re.compile(r"$|[-+<>]?\.?\d|-$|not |none")  # or that there is none

Advance = Callable[[int], None]


@contextmanager
def progress(
    description: str,
    total: int,
    *,
    done: int = 0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    shown: bool = True,
) -> Iterator[Advance]:
    """Show how far a long job is; the block gets a function that adds finished steps.

    Args:
        description: what is going on.
        total: steps in all, at least 1.
        done: those that an earlier run did: they say nothing of the time that is left.
        stream: where to; stderr by default, and a bar is drawn only if it is a terminal.
        clock: seconds, for the lines of a log.
        shown: False says nothing: somebody else counts.
    """
    if not shown:
        yield lambda _steps: None
        return
    out = sys.stderr if stream is None else stream
    if not out.isatty():
        with _lines(description, total, done, out, clock) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=out)) as bar:
        task = bar.add_task(description, total=total, completed=done)
        yield lambda steps: bar.advance(task, steps)


@contextmanager
def _lines(
    description: str, total: int, done: int, out: TextIO, clock: Callable[[], float]
) -> Iterator[Advance]:
    started = last = clock()
    before = done

    def advance(steps: int) -> None:
        nonlocal done, last
        done += steps
        now = clock()
        if now - last >= LOG_EVERY_S and done < total:
            last = now
            left = (now - started) * (total - done) / max(done - before, 1)
            print(f"{description}: {done}/{total}, about {left:.0f} s left", file=out, flush=True)

    yield advance
    print(f"{description}: {done}/{total} in {clock() - started:.1f} s", file=out, flush=True)


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    stream: TextIO | None = None,
) -> None:
    """Print a table to stdout (or the stream); columns of figures are set to the right.

    Args:
        title: shown above it.
        columns: their headings.
        rows: as many cells as columns each; floats are shown with three digits.
        stream: where to.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """
    grid = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    shown = []
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"row of {len(row)} cells under {len(columns)} columns: {row}")
        shown.append([f"{c:.3g}" if isinstance(c, float) else str(c) for c in row])
    for index, column in enumerate(columns):
        said = [row[index] for row in shown]
        figures = index and any(said) and all(map(_FIGURE.match, said))
        grid.add_column(Text(column), justify="right" if figures else "left", overflow="fold")
    for cells in shown:
        grid.add_row(*map(Text, cells))
    out = sys.stdout if stream is None else stream
    console = Console(file=out) if out.isatty() else Console(file=out, width=_WIDE)
    console.print(grid)
