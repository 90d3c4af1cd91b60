"""Benchmarks of several parts: each in a folder of its own, what is finished is kept."""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def run(
    options: argparse.Namespace,
    measures: Mapping[str, Callable[[argparse.Namespace, Path], T]],
    parts: dict[str, T],
    write: Callable[[], None],
) -> None:
    """Measure the parts that are asked for, or missing, one after the other.

    Args:
        options: ``part`` names what is asked for, ``again`` is for what is there already.
        measures: part -> function of the options and a new working folder, in their order.
        parts: what was found before; what is found is added.
        write: keeps the parts; called after each.
    """
    with tempfile.TemporaryDirectory(prefix="deepfusion-bench-") as name:
        for part in options.part or measures:
            if part in parts and not (options.again or options.part):
                continue
            work = Path(name, part)
            work.mkdir()
            parts[part] = measures[part](options, work)
            write()
    write()
