"""The clean-accuracy budget: which weights and which plan keep it on all held-out images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import Verdict
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.defence import verdicts
from deepfusion_toolkit.harden.judge import Exam
from deepfusion_toolkit.harden.search import Grid, Point, pareto, ranked

MIXES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Shares of the trained weights that are tried in turn."""
TRIES = 3
"""Plans that are judged on all held-out images before other weights are tried."""


@dataclass(frozen=True)
class Chosen:
    """A plan that keeps the budget; the model has its weights.

    Attributes:
        point: the plan and its figures.
        front: plans of the grid that no other one beats, the cheapest first.
        judged: verdicts on all held-out images, without thresholds.
        accuracy: share of these that are right, fused.
        mix: share of the trained weights, in [0, 1].
    """

    point: Point
    front: list[Point]
    judged: list[Verdict]
    accuracy: float
    mix: float


@dataclass(frozen=True)
class Budget:
    """What clean accuracy may not fall below.

    Attributes:
        before: of the undefended model, on all held-out images.
        before_exam: of the undefended model, on the exam's.
        drop: largest loss, in [0, 1].
    """

    before: float
    before_exam: float
    drop: float

    @property
    def least(self) -> float:
        """Least accuracy on all held-out images; a hair less, for sums of floats."""
        return self.before - self.drop - 1e-9

    @property
    def least_exam(self) -> float:
        """The same on the exam's."""
        return self.before_exam - self.drop - 1e-9


class Ways(NamedTuple):
    """Weights to choose from.

    Attributes:
        own: the model's tensors.
        first: their values before training.
        trained: those of the best epoch.
        settle: called after mixing; statistics of batch norms do not mix as weights do.
    """

    own: Sequence[Tensor]
    first: Sequence[Tensor]
    trained: Sequence[Tensor]
    settle: Callable[[], None]


def choose(
    grid: Grid,
    held_out: Dataset,
    exam: Exam,
    budget: Budget,
    seed: int,
    ways: Ways | None = None,
) -> Chosen:
    """Take the best plan within the budget, of the trained weights or of a mix with the first ones.

    Mixing weights is WiSE-FT (Wortsman et al., CVPR 2022): between the two, accuracy on clean and
    on attacked images goes from one to the other without a break.

    Args:
        grid: plans; its networks share ``weights``.
        held_out: all held-out images.
        exam: those that the grid is searched on.
        budget: what must be kept.
        seed: of the members.
        ways: weights to choose from; the model ends with the chosen ones. None: as they are.

    Raises:
        ModelError: no mix and no plan keeps the budget.
    """
    best = 0.0
    for mix in MIXES if ways else (0.0,):
        if ways:
            restore(ways.own, blend(ways.first, ways.trained, mix))
            if 0 < mix < 1:
                ways.settle()
        points = grid.search(exam, seed)
        for point in ranked(points, budget.least_exam)[:TRIES]:
            judged = verdicts(
                point.model, held_out, members=point.members, thresholds=None, seed=seed
            )
            hits = [v.label == i.label for v, i in zip(judged, held_out.items, strict=True)]
            accuracy = sum(hits) / len(hits)
            if accuracy >= budget.least:
                return Chosen(point, pareto(points), judged, accuracy, mix)
        best = max(best, *(p.figures.clean for p in points))
    raise ModelError(
        f"no plan keeps clean accuracy within max-clean-drop {budget.drop:g}: undefended "
        f"{budget.before:.3f}, best plan {best:.3f} on held-out images",
        "raise --max-clean-drop, or add training images",
    )


def blend(first: Sequence[Tensor], last: Sequence[Tensor], share: float) -> list[Tensor]:
    """``(1 - share) * first + share * last``; what is not floating point is the last's."""
    return [
        torch.lerp(a, b, share) if a.is_floating_point() else b
        for a, b in zip(first, last, strict=True)
    ]


def restore(weights: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    """Copy kept weights into the model's own."""
    with torch.no_grad():
        for weight, value in zip(weights, kept, strict=True):
            weight.copy_(value)
