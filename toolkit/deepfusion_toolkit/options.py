"""Options of the command line: the parts of an attack, and where work is done."""

import argparse
from pathlib import Path
from typing import Any

from deepfusion_toolkit.names import ATTACKS, ENGINES, KINDS, THREATS, TRANSFORMS


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Add an option for every part; none given leaves what the budget chose."""
    group = parser.add_argument_group("parts of the attack (default: what --passes chooses)")
    number, whole = {"type": float, "metavar": "X"}, {"type": int, "metavar": "N"}
    yes_no = {"action": argparse.BooleanOptionalAction}
    for name, kind, text in (
        ("steps", whole, "updates of the image"),
        ("step-size", number, "of one update, in 1/255"),
        ("decay", number, "of the gradient memory, 0 to 1"),
        ("nesterov", yes_no, "look ahead along the memory"),
        ("loss", {"choices": ("ce", "logit")}, "cross-entropy, or the class's own logit"),
        ("group", whole, "surrogates a step sees; 0: all"),
        ("erosion", number, "strength relative to the published one; 0: none"),
        ("residual", number, "share of gradient through residual branches; 1: plain"),
        ("feature-weight", number, "of the feature-space term; 0: none"),
        ("adaptive", yes_no, "feature-space term by its agreement with the present gradient"),
        ("kernel", whole, "side of the Gaussian that smooths gradients (TI); 0: none"),
        ("samples", whole, "draws averaged for one step"),
        ("radius", number, "of neighbours, in epsilons; 0: none"),
        ("precision", {"choices": ("fp32", "bf16")}, "mixed precision, for a GPU"),
        ("compile", yes_no, "compile surrogates (minutes each; without features and mix-up)"),
        ("mixup", number, "largest share of a clean feature in a map; 0: none"),
    ):
        group.add_argument(f"--{name}", help=text, default=None, **kind)
    lists: tuple[tuple[str, Any, str], ...] = (
        ("kinds", KINDS, "of erosion, comma-separated"),
        ("transforms", TRANSFORMS, "of the input, comma-separated; '' for none"),
        ("tap", (), "LAYER or MODEL:LAYER of the feature-space term, comma-separated"),
    )
    for name, known, text in lists:
        shown = f"{text}: {', '.join(known)}" if known else text
        group.add_argument(f"--{name}", type=_words, help=shown, default=None, metavar="LIST")
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON object with these names; options win"
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add what says where the work is done; it decides nothing about the result."""
    group = parser.add_argument_group("where the work is done (the result is the same)")
    group.add_argument(
        "--engine",
        default="local",
        choices=ENGINES,
        help="this process, several of this machine, or a Ray cluster (%(default)s)",
    )
    group.add_argument(
        "--workers", type=int, metavar="N", help="how many work at once (one for each core or GPU)"
    )
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="of torch in each worker; another number may change results in their last bits "
        "(cores divided by workers)",
    )
    group.add_argument(
        "--ray-address", metavar="ADDRESS", help="of a running cluster (one is started here)"
    )


def add_threats(parser: argparse.ArgumentParser, spec: str) -> None:
    """Add threats and how hard attackers try; what is left out has small defaults."""
    group = parser.add_argument_group(
        "the defence under attack (--threat; the originals are --clean, --data sets are optional)"
    )
    group.add_argument(
        "--threat",
        action="append",
        choices=THREATS,
        metavar="NAME",
        help=f"{', '.join(THREATS)}; repeat it for several",
    )
    for name, text in (
        ("surrogate", "public models that transfer attacks are made on"),
        ("hardened-surrogate", "models hardened like the target, for transfer-aware"),
        ("ensemble", "plain models fused with the target, to compare at equal cost"),
    ):
        shown = f"{text}: {spec}" if name == "surrogate" else text
        group.add_argument(f"--{name}", action="append", default=[], metavar="SPEC", help=shown)
    group.add_argument(
        "--undefended",
        metavar="SPEC",
        help="the target before hardening: shows whether the attacks are strong enough",
    )
    number, whole = {"type": float, "metavar": "X"}, {"type": int, "metavar": "N"}
    several: dict[str, Any] = {"action": "append"}
    for name, kind, text in (
        ("eps", number | several, "budget in 1/255; may be repeated (8)"),
        (
            "attack",
            {"choices": ATTACKS, "metavar": "NAME"} | several,
            "of the transfer threats; may be repeated (deep-fusion)",
        ),
        ("passes", whole, "of a transfer attack per image (10 for each surrogate)"),
        ("limit", whole, "images attacked, balanced over classes (40)"),
        ("redraws", whole, "how often each image is judged with other factors (5)"),
        ("steps", whole, "of PGD and APGD, iterations of AutoAttack (10; paper: 100)"),
        ("eot", whole | several, "draws a gradient averages, one rung each; repeat it (1 20 100)"),
        ("raises", whole, "further rungs of twice the draws, steps and restarts (0)"),
        ("tolerance", number, "a rung that takes less accuracy ends the ladder (.01)"),
        ("queries", whole, "of Square for each image (300; paper: 5000)"),
        ("members", whole | several, "K of the forms compared; repeat it (1 5 10 30)"),
        ("rounds", whole, "of the latency measurement (15)"),
        ("batch", whole, "images at once (16)"),
        ("sweep", {"action": argparse.BooleanOptionalAction}, "double epsilon until 0 %% (yes)"),
        (
            "forms",
            {"action": argparse.BooleanOptionalAction},
            "compare single, ensemble and eroded forms at their cost (yes)",
        ),
        (
            "resume",
            {"type": Path, "metavar": "FILE"},
            "keep finished rows here, go on from there",
        ),
    ):
        group.add_argument(f"--{name}", help=text, default=None, **kind)


THREAT_OPTIONS = (
    "surrogate", "hardened_surrogate", "ensemble", "undefended", "eps", "attack", "passes",
    "limit", "redraws", "steps", "eot", "raises", "tolerance", "queries", "members", "rounds",
    "batch", "sweep", "forms", "resume",
)  # fmt: skip
"""What means nothing without --threat."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)
