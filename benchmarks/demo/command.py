"""What the three commands of a journey have in common: options in, exit code out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.demo.journey import Settings


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add ``--out`` and ``--fresh``."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="everything is written there; a second run continues what was interrupted",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="first remove what an earlier run left in --out"
    )


def run(args: argparse.Namespace, settings: "Settings") -> int:
    """Travel, and return the exit code of the step that failed, if any."""
    from benchmarks.demo import journey, steps

    try:
        journey.travel(settings, args.out, fresh=args.fresh)
    except steps.Stopped as stopped:
        return stopped.code
    return 0
