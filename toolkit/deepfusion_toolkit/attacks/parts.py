"""AutoAttack's parts, and which of them suit a network; its paper is named in ``battery``."""

from dataclasses import dataclass
from typing import Literal, get_args

from deepfusion_edge.errors import ModelError, UsageError

Part = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
Version = Literal["standard", "plus"]

PARTS: dict[Version, tuple[Part, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
}
"""The authors' versions, without the one for randomised defences."""

TARGETS = 9
"""Classes that a targeted part tries at most, the most likely ones first."""


@dataclass(frozen=True)
class Effort:
    """How hard the attacks try; the defaults are the paper's.

    Attributes:
        iterations: of APGD and FAB, at least 1.
        queries: of Square, at least 1.
    """

    iterations: int = 100
    queries: int = 5000

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.queries < 1:
            raise UsageError(
                f"iterations {self.iterations} and queries {self.queries} must be at least 1",
                "raise them",
            )


STANDARD = Effort()


@dataclass(frozen=True)
class Plan:
    """Which parts suit a number of classes.

    Attributes:
        version: the paper's, from which everything else follows.
        parts: in the order in which they run.
        targets: classes that each targeted part tries.
        note: what differs from the version, empty if nothing does.
    """

    version: Version
    parts: tuple[Part, ...]
    targets: int
    note: str


def plan_for(classes: int, version: Version = "standard") -> Plan:
    """Choose the parts for C classes: the targeted DLR loss needs four, the plain one three.

    Raises:
        UsageError: there is no such version.
        ModelError: there are fewer than two classes.
    """
    if version not in PARTS:
        raise UsageError(
            f"AutoAttack has no version '{version}' here", f"give {' or '.join(get_args(Version))}"
        )
    if classes < 2:  # noqa: PLR2004
        raise ModelError(f"the model has {classes} class", "AutoAttack needs two or more")
    parts, notes = list(PARTS[version]), []
    if classes == 2:  # noqa: PLR2004
        parts = [part for part in parts if part not in {"apgd-dlr", "apgd-t"}]
        notes = ["no DLR loss with 2 classes: its attacks are left out"]
    elif classes == 3:  # noqa: PLR2004
        others = [part for part in parts if part != "apgd-dlr"]
        parts = ["apgd-dlr" if part == "apgd-t" else part for part in others]
        notes = ["no targeted DLR loss with 3 classes: the plain one stands in"]
    targets = min(TARGETS, classes - 1)
    if targets < TARGETS:
        notes.append(f"targeted parts try {targets} of {TARGETS} classes, all there are")
    return Plan(version, tuple(parts), targets, "; ".join(notes))
