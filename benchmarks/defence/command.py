"""The defence against held-out surrogates and attacks: accuracy, detection, cost, white box."""

import argparse
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.names import ATTACKS, FAMILIES, HARDEN_EPOCHS


class Case(NamedTuple):
    """Images and the budgets they are attacked with.

    Attributes:
        name: for tables and folders.
        root: an ImageFolder with ``train`` and ``test``; None: rendered by the product.
        eps: in units of 1/255, at least one.
    """

    name: str
    root: Path | None
    eps: tuple[float, ...]


RENDERED = Case("rendered", None, (8.0, 16.0))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="all figures")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page with the tables")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("bench/defence"),
        metavar="DIR",
        help="nets, plans and sets: a second run goes on where this one was stopped (%(default)s)",
    )
    parser.add_argument(
        "--data",
        type=_case,
        action="append",
        metavar="NAME=DIR@EPS[,EPS]",
        help="ImageFolder with train and test, and budgets in 1/255 (rendered inspection at 8, 16);"
        " limits are set anew on a third folder, calibration, where there is one",
    )
    families: dict[str, object] = {"choices": FAMILIES, "metavar": "FAMILY"}
    parser.add_argument("--target", default="residual", help="(%(default)s)", **families)  # type: ignore[arg-type]
    for name, text in (
        ("surrogate", "public, of hardening (depthwise and fire)"),
        ("held-out", "the attacker's, never seen in hardening (dense and plain)"),
    ):
        parser.add_argument(f"--{name}", action="append", help=text, **families)  # type: ignore[arg-type]
    parser.add_argument(
        "--attacks",
        default="deep-fusion,vmi,smer",
        help="of the attacker; hardening sees other surrogates and not all of these (%(default)s)",
    )
    number = {"type": int, "metavar": "N"}
    for option, value, text in (
        ("passes", 40, "of an attack per image, all surrogates counted"),
        ("images", 150, "attacked, of the test images"),
        ("epochs", 12, "of training a net"),
        ("harden-epochs", HARDEN_EPOCHS, "of hardening"),
        ("white-box-images", 50, "attacked with full access; 0: none"),
        ("steps", 20, "of PGD and APGD"),
        ("queries", 500, "of Square for each image"),
        ("seed", 0, "of every draw"),
    ):
        parser.add_argument(f"--{option}", default=value, help=f"{text} (%(default)s)", **number)  # type: ignore[arg-type]


def _case(text: str) -> Case:
    name, equals, rest = text.partition("=")
    root, at, listed = rest.rpartition("@")
    try:
        eps = tuple(float(e) for e in listed.split(","))
    except ValueError:
        eps = ()
    if not (equals and at and eps and root and name.replace("-", "").isalnum()):
        raise UsageError(f"data '{text}' is not NAME=DIR@EPS", "give, say, pcb=deeppcb@8,16")
    return Case(name, Path(root), eps)


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write JSON and page; return the exit code."""
    from benchmarks.defence import measure

    args.surrogate = args.surrogate or ["depthwise", "fire"]
    args.held_out = args.held_out or ["dense", "plain"]
    args.attacks = [name for name in args.attacks.split(",") if name]
    for name in args.attacks:
        if name not in ATTACKS:
            raise UsageError(f"there is no attack '{name}'", f"give some of {', '.join(ATTACKS)}")
    seen = {args.target, *args.surrogate} & set(args.held_out)
    if seen:
        raise UsageError(
            f"{', '.join(sorted(seen))} cannot be held out: hardening sees it",
            "give other families as --held-out",
        )
    return measure.run(args, args.data or [RENDERED])
