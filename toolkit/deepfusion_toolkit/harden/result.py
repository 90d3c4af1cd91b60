"""What hardening gives: the plan with its figures, and what the report shows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from deepfusion_toolkit import __version__, plan
from deepfusion_toolkit.calibrate import calibrate
from deepfusion_toolkit.harden.budget import Budget, Chosen
from deepfusion_toolkit.harden.checkpoint import Epoch
from deepfusion_toolkit.harden.noticing import Round
from deepfusion_toolkit.harden.search import Point
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.policy import Found


class Sample(NamedTuple):
    """One example of a source: label, and both images uint8 [3, H, W]."""

    source: str
    label: int
    clean: torch.Tensor
    attacked: torch.Tensor


@dataclass(frozen=True)
class Result:
    """A finished hardening.

    Attributes:
        plan: as it was written.
        epochs: of training, in order.
        rounds: of the detector, in order.
        front: plans that no other one of the grid beats, the cheapest first.
        chosen: the one that was taken.
        samples: one example of each source.
        doubts: what makes the figures doubtful, one sentence each.
    """

    plan: plan.Plan
    epochs: Sequence[Epoch]
    rounds: Sequence[Round]
    front: Sequence[Point]
    chosen: Point
    samples: Sequence[Sample]
    doubts: Sequence[str]

    def as_json(self) -> Mapping[str, Any]:
        """For machines: figures, epochs and the Pareto table."""
        return {
            **self.plan.figures,
            "warnings": list(self.doubts),
            "chosen": line_of(self.chosen),
            "pareto": [line_of(point) for point in self.front],
            "epochs": list(self.epochs),
            "detector": list(self.rounds),
        }


def line_of(point: Point) -> dict[str, float | int]:
    """One line of the Pareto table."""
    return {
        "shared": round(point.share, 4),
        "strength": point.strength,
        "members": point.members,
        "cost": round(point.cost, 3),
        "clean": point.figures.clean,
        "robust": point.figures.mean_robust,
        "auroc": point.figures.auroc,
    }


def plan_of(
    model: Classifier,
    classes: Sequence[str],
    chosen: Chosen,
    budget: Budget,
    settings: Settings,
    *,
    epochs: Sequence[Epoch],
    surrogates: Sequence[str],
    accuracy: float,
    found: Found,
) -> plan.Plan:
    """The plan of a model whose weights are final.

    Args:
        model: the hardened model.
        classes: names in the order of the outputs.
        chosen: see ``choose``.
        budget: with the accuracy before.
        settings: how it was made.
        epochs: of training.
        surrogates: names.
        accuracy: of the plain model, not eroded, on held-out images.
        found: when fewer than all members judge.
    """
    point, seen, rate = chosen.point, chosen.point.figures, settings.false_positive_rate
    figures: dict[str, float | int] = {
        "held_out": len(chosen.judged),
        "clean_accuracy_before": budget.before,
        "fused_accuracy": chosen.accuracy,
        "accuracy": accuracy,
        "cost": point.cost,
        "eroded": point.work.eroded,
    }
    if found.accuracy is not None:
        figures["policy_accuracy"] = found.accuracy
    if seen.robust:
        figures |= {
            "robust_accuracy": seen.mean_robust,
            "robust_accuracy_worst": min(seen.robust.values()),
            "auroc": seen.auroc,
        }
    if epochs:
        figures |= {"epochs": len(epochs), "mix": chosen.mix}
    return plan.Plan(
        schema=2,
        classes=tuple(classes),
        height=model.size[0],
        width=model.size[1],
        bases=(plan.Base.of(model, point.model.sites),),
        preprocess=settings.stages,
        members=point.members,
        fusion=settings.fusion,
        prefix_share=point.share,
        network_cost=point.work.network,
        thresholds=calibrate(chosen.judged, rate) if rate else None,
        settings={
            **asdict(settings),
            "preprocess": list(settings.preprocess),
            "version": __version__,
            "torch": str(torch.__version__),
            "surrogates": list(surrogates),
        },
        figures=figures,
        policy=found.policy,
    )
