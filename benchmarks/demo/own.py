"""The same journey on your own images and models."""

import argparse
from pathlib import Path

from benchmarks.demo.command import add_folder
from benchmarks.demo.command import run as go
from deepfusion_toolkit.names import FAMILIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    spec = f"a model SPEC, or one of {', '.join(FAMILIES)} to train it on --train-data first"
    add_folder(parser)
    parser.add_argument(
        "--test-data", type=Path, required=True, metavar="DIR", help="images that are attacked"
    )
    parser.add_argument(
        "--train-data",
        type=Path,
        metavar="DIR",
        help="images for training and hardening; without them the test images choose the erosion",
    )
    parser.add_argument("--surrogate", action="append", required=True, metavar="SPEC", help=spec)
    parser.add_argument("--target", required=True, metavar="SPEC", help=spec)
    parser.add_argument(
        "--held-out",
        action="append",
        default=[],
        metavar="SPEC",
        help="surrogate of a second attack that hardening does not see, one option a model",
    )
    parser.add_argument(
        "--harden",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train against the attack, or only choose where to erode",
    )
    parser.add_argument(
        "--epochs", type=int, default=8, metavar="N", help="of training (default: 8)"
    )
    parser.add_argument(
        "--harden-epochs", type=int, metavar="N", help="of hardening (default: the command's own)"
    )
    parser.add_argument(
        "--false-positive-rate",
        type=float,
        metavar="R",
        help="of flags on clean images, 0: nothing is flagged (default: of deepfusion harden)",
    )
    parser.add_argument(
        "--eps", type=float, default=16, metavar="E", help="budget in 1/255 (default: 16)"
    )
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="of the attack (default: 10)"
    )
    parser.add_argument("--members", type=int, metavar="K", help="default: of deepfusion harden")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="at most so many test images, balanced over classes"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn")
    parser.add_argument("--title", default="Journey", help="of the report")


def run(args: argparse.Namespace) -> int:
    """Go, and return the exit code."""
    from benchmarks.demo.journey import Own, Settings

    settings = Settings(
        title=args.title,
        images=Own(args.test_data, args.train_data, args.limit),
        surrogates=tuple(args.surrogate),
        target=args.target,
        held_out=tuple(args.held_out),
        epochs=args.epochs,
        harden_epochs=args.harden_epochs if args.harden else 0,
        false_positive_rate=args.false_positive_rate,
        eps=args.eps,
        attack_steps=args.steps,
        members=args.members,
        seed=args.seed,
    )
    return go(args, settings)
