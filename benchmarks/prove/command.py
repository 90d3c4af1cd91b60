"""Prove the claims: hostile input, fuzzing, faults, soak, supply chain, guards taken out."""

import argparse
from pathlib import Path

PARTS = (
    "hostile",
    "guards",
    "fuzz",
    "faults",
    "small",
    "soak",
    "supply",
)
"""Names of :data:`benchmarks.prove.measure.MEASURES`, in their order."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="the same as a page (default: beside the JSON)"
    )
    parser.add_argument(
        "--part",
        action="append",
        choices=PARTS,
        default=[],
        help="prove only this, any number of times; the JSON keeps the others' rows",
    )
    parser.add_argument(
        "--again", action="store_true", help="prove parts that the JSON has already"
    )
    parser.add_argument(
        "--short", action="store_true", help="minutes instead of hours: fewer draws of each"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every draw (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Prove, print one table, write the JSON after each part; 1 if a claim did not hold.

    Raises:
        DeepFusionError: the JSON is no result of this command, or a part cannot begin.
    """
    from benchmarks.prove import measure

    return measure.run(options)
