"""``deepfusion``: render, train, craft, evaluate, harden, join; heavy imports wait."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deepfusion_edge import console
from deepfusion_toolkit import __version__, options
from deepfusion_toolkit.names import (
    ATTACKS,
    DEEP_FUSION,
    FAMILIES,
    FUSIONS,
    HARDEN_EPOCHS,
    METHODS,
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="deepfusion",
        description="Craft deep-fusion adversarial examples, judge them, harden classifiers.",
        epilog=console.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data = commands.add_parser("data", help="make a data set").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    _render(data.add_parser("render", help="render a surface-inspection data set, seeded"))
    _train(commands.add_parser("train", help="train a small classifier"))
    _craft(commands.add_parser("craft", help="attack images on surrogates and save them"))
    _evaluate(commands.add_parser("evaluate", help="judge attacked sets on targets"))
    _ablate(commands.add_parser("ablate", help="measure what each part of the attack earns"))
    _harden(commands.add_parser("harden", help="choose erosion and train a defended classifier"))
    _join(commands.add_parser("join", help="one plan of several hardened classifiers"))
    return parser


SPEC = "a .pt2 or .onnx file, timm:NAME, module.path:factory, or efficientnet-lite0|1|2"
DATA = "an ImageFolder, or a folder with labels.csv (file,label[,target])"


def _seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (%(default)s)")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def _render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train", type=int, default=250, help="images a class (%(default)s)")
    parser.add_argument("--test", type=int, default=50, help="images a class (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (%(default)s)")
    _seed(parser)
    parser.set_defaults(run="render")


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="an ImageFolder")
    parser.add_argument("--arch", required=True, choices=FAMILIES, help="family of nets")
    parser.add_argument("--out", type=Path, required=True, help="model file to write (.pt2)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the data (%(default)s)")
    _seed(parser)
    _json(parser)
    parser.set_defaults(run="train")


def _craft(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help=DATA)
    parser.add_argument("--surrogate", action="append", required=True, metavar="SPEC", help=SPEC)
    parser.add_argument("--eps", type=float, default=16.0, help="budget in 1/255 (%(default)s)")
    parser.add_argument("--targeted", action="store_true", help="towards the target class")
    parser.add_argument(
        "--attack",
        default=DEEP_FUSION,
        choices=ATTACKS,
        metavar="NAME",
        help=f"{', '.join(ATTACKS)} (%(default)s)",
    )
    parser.add_argument(
        "--passes",
        type=int,
        metavar="N",
        help="forward and backward passes per image, all surrogates counted "
        "(10 for each surrogate; targeted 300)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the attacked set")
    parser.add_argument("--limit", type=int, help="at most so many images, balanced over classes")
    parser.add_argument("--batch", type=int, help="images at once (what half of the memory holds)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted set")
    parser.add_argument("--device", default="cpu", help="of torch: cpu, cuda (%(default)s)")
    options.add_parts(parser)
    options.add_engine(parser)
    _seed(parser)
    _json(parser)
    parser.set_defaults(run="craft")


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        action="append",
        type=Path,
        metavar="DIR",
        help="an attacked set; repeat it to compare several",
    )
    parser.add_argument(
        "--clean", type=Path, metavar="DIR", help="the originals: success counts what was right"
    )
    parser.add_argument("--target", action="append", required=True, metavar="SPEC", help=SPEC)
    parser.add_argument(
        "--defence",
        "--plan",
        dest="plan",
        type=Path,
        metavar="PLAN",
        help="erosion plan of the targets: judge them fused as well",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures")
    parser.add_argument(
        "--ablation",
        type=Path,
        metavar="FILE",
        help="JSON table for the page: title, columns, rows, notes",
    )
    options.add_threats(parser, SPEC)
    options.add_engine(parser)
    _seed(parser)
    parser.set_defaults(run="evaluate")


def _ablate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help=DATA)
    parser.add_argument("--surrogate", action="append", required=True, metavar="SPEC", help=SPEC)
    parser.add_argument("--target", action="append", required=True, metavar="SPEC", help=SPEC)
    parser.add_argument(
        "--passes",
        type=int,
        action="append",
        metavar="N",
        help="budget per image, all surrogates counted; may be repeated (20)",
    )
    parser.add_argument("--eps", type=float, default=16.0, help="budget in 1/255 (%(default)s)")
    parser.add_argument("--targeted", action="store_true", help="towards the target class")
    parser.add_argument("--limit", type=int, help="at most so many images, balanced over classes")
    parser.add_argument("--batch", type=int, default=10, help="images at once (%(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the table for evaluate --ablation"
    )
    _seed(parser)
    _json(parser)
    parser.set_defaults(run="ablate")


def _harden(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="SPEC", help=SPEC)
    parser.add_argument("--data", type=Path, required=True, help=f"training images: {DATA}")
    parser.add_argument(
        "--surrogate", action="append", default=[], metavar="SPEC", help=f"{SPEC}; public models"
    )
    parser.add_argument("--out", type=Path, required=True, help="hardened model to write (.pt2)")
    parser.add_argument("--plan", type=Path, required=True, help="erosion plan to write (.json)")
    parser.add_argument(
        "--method",
        default="transfer",
        choices=METHODS,
        help="train on transfer examples of the surrogates, on examples of the model itself (PGD), "
        "or on softened labels (%(default)s)",
    )
    parser.add_argument("--eps", type=float, default=16.0, help="budget in 1/255 (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of the attack (%(default)s)")
    parser.add_argument(
        "--epochs",
        type=int,
        default=HARDEN_EPOCHS,
        help="of training, at most; 0: plan only (%(default)s)",
    )
    parser.add_argument("--members", type=int, metavar="K", help="members to fuse (searched)")
    parser.add_argument(
        "--fusion", choices=FUSIONS, default=FUSIONS[0], help="of predictions (%(default)s)"
    )
    parser.add_argument(
        "--preprocess",
        action="append",
        default=[],
        metavar="STAGE",
        help="before the network, in order: jpeg:QUALITY, bits:BITS, median, resize-pad:SHARE",
    )
    parser.add_argument(
        "--shared", type=float, default=0.8, help="least share of work in common (%(default)s)"
    )
    parser.add_argument(
        "--max-cost",
        type=float,
        default=4.0,
        help="of a fused prediction, in plain inferences (%(default)s)",
    )
    parser.add_argument(
        "--max-clean-drop",
        type=float,
        default=0.02,
        help="largest loss of clean accuracy, on held-out images (%(default)s)",
    )
    parser.add_argument(
        "--false-positive-rate",
        type=float,
        default=0.01,
        help="of flags on clean images; 0: nothing is flagged (%(default)s)",
    )
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate (%(default)s)")
    parser.add_argument(
        "--crafted", type=int, default=4000, help="transfer examples, at most (%(default)s)"
    )
    parser.add_argument(
        "--temperature", type=float, default=20.0, help="of distillation (%(default)s)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="keeps transfer examples and the checkpoint (beside --out, ending in .work)",
    )
    parser.add_argument("--resume", action="store_true", help="go on after the last whole epoch")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with curves")
    parser.add_argument(
        "--device",
        default="cpu",
        help="of torch: cpu, cuda, or several that train together: cuda:0,cuda:1 (%(default)s)",
    )
    _seed(parser)
    _json(parser)
    parser.set_defaults(run="harden")


def _join(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", action="append", required=True, metavar="SPEC", help=f"{SPEC}; hardened"
    )
    parser.add_argument(
        "--plan",
        action="append",
        type=Path,
        required=True,
        metavar="PLAN.JSON",
        help="of each model, in the same order",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help=f"what they were hardened on: {DATA}"
    )
    parser.add_argument(
        "--unseen", action="store_true", help="no model saw these images: calibrate on all of them"
    )
    parser.add_argument("--out", type=Path, required=True, help="plan to write (.json)")
    parser.add_argument("--members", type=int, default=4, help="K of each model (%(default)s)")
    parser.add_argument(
        "--fusion", choices=FUSIONS, default=FUSIONS[0], help="of predictions (%(default)s)"
    )
    parser.add_argument(
        "--false-positive-rate", type=float, default=0.01, help="of flags (%(default)s)"
    )
    _seed(parser)
    _json(parser)
    parser.set_defaults(run="join")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; see the exit codes in ``--help``."""
    args = build_parser().parse_args(argv)

    def command() -> int:
        from deepfusion_toolkit import commands

        return int(getattr(commands, args.run)(args))

    return console.run(command)


if __name__ == "__main__":
    sys.exit(main())
