"""Transfer of deep fusion against its rivals at matched passes; speed and memory over the floor."""

import argparse
from pathlib import Path

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.names import ATTACKS

METHODS = ("deep-fusion", "mi", "ni", "di", "ti", "si", "admix", "bsr", "vmi", "pgn", "svre",
           "smer", "fia")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="all figures")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page with the curve")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="journal of outcomes: a second run goes on where this one was stopped",
    )
    parser.add_argument(
        "--surrogate",
        action="append",
        metavar="SPEC",
        help="(efficientnet-lite1 and efficientnet-lite2)",
    )
    parser.add_argument("--target", action="append", metavar="SPEC", help="(efficientnet-lite0)")
    parser.add_argument("--data", type=Path, help="images (the photographs of the package foolbox)")
    parser.add_argument("--eps", type=float, default=8.0, help="in 1/255 (%(default)s)")
    parser.add_argument(
        "--budget",
        type=_budget,
        action="append",
        metavar="PASSES[:IMAGES]",
        help="passes per image, all surrogates counted, and how many images get it (20, 80, 320)",
    )
    parser.add_argument(
        "--methods", default=",".join(METHODS), help="comma-separated (%(default)s)"
    )
    parser.add_argument("--targeted-steps", type=int, default=300, help="T (%(default)s)")
    parser.add_argument(
        "--targeted-images", type=int, default=20, help="0 leaves it out (%(default)s)"
    )
    parser.add_argument("--targeted-eps", type=float, help="in 1/255 (as --eps)")
    parser.add_argument("--rounds", type=int, default=5, help="of timing, 0: none (%(default)s)")
    parser.add_argument("--batch", type=int, default=10, help="images at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of every draw (%(default)s)")


def _budget(text: str) -> tuple[int, int | None]:
    passes, _, images = text.partition(":")
    try:
        return int(passes), int(images) if images else None
    except ValueError as error:
        raise UsageError(f"budget '{text}' is not PASSES[:IMAGES]", "give, say, 80:50") from error


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write JSON and page; return the exit code."""
    from benchmarks.attack import measure

    methods = [m for m in args.methods.split(",") if m]
    for method in methods:
        if method not in ATTACKS:
            raise UsageError(f"there is no attack '{method}'", f"give some of {', '.join(ATTACKS)}")
    return measure.run(args, methods)
