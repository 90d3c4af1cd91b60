"""The agent against its goals: frame rate, latency, outbox, memory, start, kills and restarts."""

import argparse
from pathlib import Path

from deepfusion_edge.errors import UsageError

PARTS = ("speed", "start", "outbox", "drain", "memory", "faults")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--part",
        action="append",
        choices=PARTS,
        default=[],
        help="measure only this, any number of times; the JSON keeps the others' figures",
    )
    parser.add_argument(
        "--again", action="store_true", help="measure parts that the JSON has already"
    )
    parser.add_argument(
        "--model", default="efficientnet-lite0", metavar="SPEC", help="(default: %(default)s)"
    )
    parser.add_argument("--members", type=int, default=8, metavar="K", help="(default: 8)")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="of ONNX Runtime (default: 1)"
    )
    parser.add_argument("--rounds", type=int, default=12, help="of speed (default: %(default)s)")
    parser.add_argument(
        "--frames", type=int, default=60, help="of each round of speed (default: %(default)s)"
    )
    parser.add_argument("--starts", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument(
        "--events", type=int, default=40_000, help="of outbox (default: %(default)s)"
    )
    parser.add_argument(
        "--backlog", type=int, default=100_000, help="of drain (default: %(default)s)"
    )
    parser.add_argument(
        "--replay", type=int, default=36_000, help="frames of memory (default: %(default)s)"
    )
    parser.add_argument("--kills", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--restarts", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of faults (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Measure, print a table, write the JSON after each part.

    Raises:
        UsageError: an option breaks a rule.
        DeepFusionError: a part cannot be measured, for example without mosquitto.
    """
    from benchmarks.agent import measure

    for name in ("members", "rounds", "frames", "starts", "events", "backlog", "replay"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} {getattr(options, name)}", "give at least 1")
    for name in ("kills", "restarts", "threads"):
        if getattr(options, name) < 0:
            raise UsageError(f"--{name} {getattr(options, name)}", "give at least 0")
    return measure.run(options)
