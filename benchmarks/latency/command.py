"""What K members cost as a ratio to the plain model, stage by stage, beside K separate runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from deepfusion_edge.errors import InputError, UsageError

if TYPE_CHECKING:
    from deepfusion_edge.erosion import Kind

MEMBERS = (1, 2, 4, 8, 16, 32)
RUNTIMES = ("CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider")
"""That are measured where ONNX Runtime has them."""
MODELS = ("timm:resnet18", "timm:resnet50", "timm:mobilenetv3_large_100", "efficientnet-lite0")
"""Measured where nothing is named. Weights do not matter to the clock: they are drawn."""

KINDS: tuple["Kind", ...] = ("skip", "activation")
"""Eroded in a ``--model`` where nothing is said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument(
        "--bundle", type=Path, action="append", default=[], metavar="LINE.DFB", help="any number"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="SPEC",
        help="eroded from its last stage on, any number; timm:NAME with random weights"
        f" (default without --bundle: {', '.join(MODELS)})",
    )
    parser.add_argument(
        "--share",
        type=_shares,
        default=(),
        metavar="S,S",
        help="erode each --model also from the first site on that has at least this share of the"
        " multiply-adds before it: shows how the predicted cost holds elsewhere",
    )
    parser.add_argument(
        "--kinds",
        type=_kinds,
        default=KINDS,
        metavar="KIND,KIND",
        help="of sites in each --model: skip, activation, norm"
        f" (default: {','.join(KINDS)}, which cost least)",
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page with tables and plots")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables for a README")
    parser.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="KEY.PUB",
        help="verify bundles first; without it only their form is checked",
    )
    parser.add_argument(
        "--plain",
        metavar="SPEC",
        help="the (one) exported model of the (one) bundle, to compare with; else the bundle's"
        " graph without erosion, which runs every base once",
    )
    parser.add_argument(
        "--members",
        type=_numbers,
        default=MEMBERS,
        metavar="K,K",
        help=f"(default: {','.join(map(str, MEMBERS))}); 8 is added, goals are stated for it",
    )
    parser.add_argument("--rounds", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=_numbers,
        default=(1,),
        metavar="N,N",
        help="of ONNX Runtime, 0 for as many as it likes; each is a run (default: 1)",
    )
    parser.add_argument(
        "--frame",
        type=_size,
        default=(1280, 960),
        metavar="WxH",
        help="of the camera, for the stage before the network (default: 1280x960)",
    )
    parser.add_argument(
        "--threats",
        type=Path,
        metavar="FILE",
        help="JSON of deepfusion evaluate --threat: plots its forms' robust accuracy over latency",
    )
    parser.add_argument(
        "--coverage",
        type=Path,
        metavar="FILE",
        help="JSON of python -m benchmarks coverage: its counts go into the summary",
    )
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="an earlier JSON of this command, beside it"
    )


def run(options: argparse.Namespace) -> int:
    """Measure, print tables, write JSON, Markdown and page.

    Raises:
        UsageError: an option breaks a rule.
        DeepFusionError: a bundle, a model or an earlier result cannot be used.
    """
    from benchmarks.latency import measure

    if options.rounds < 1:
        raise UsageError(f"--rounds {options.rounds}", "give at least 1")
    for name, low, high in (("members", 1, 64), ("threads", 0, 1024)):
        for value in getattr(options, name):
            if not low <= value <= high:
                raise UsageError(f"--{name} {value}", f"give {low} to {high}")
    if options.coverage and not options.coverage.is_file():
        raise InputError(
            f"{options.coverage} is no file", "run python -m benchmarks coverage first"
        )
    if options.plain and (len(options.bundle) != 1 or options.model):
        raise UsageError("--plain is of one bundle", "give one --bundle and no --model")
    if not options.bundle and not options.model:
        options.model = list(MODELS)
    options.members = tuple(sorted({*options.members, 8}))
    return measure.run(options)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list like 1,8") from None


def _shares(text: str) -> tuple[float, ...]:
    try:
        found = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list like 0,0.5") from None
    if not all(0 <= share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"'{text}' has a share outside [0, 1)")
    return found


def _kinds(text: str) -> tuple["Kind", ...]:
    from deepfusion_edge.erosion import Kind

    known: tuple[Kind, ...] = get_args(Kind)
    wanted = text.split(",")
    if not set(wanted) <= set(known):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of {', '.join(known)}")
    return tuple(kind for kind in known if kind in wanted)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size like 1280x960")
    return int(width), int(height)
