"""One defence of several models: their plans joined, calibrated as the ensemble they become.

Each model is hardened by itself, against surrogates that fit it; only what depends on all of them,
the thresholds and the figures, is made anew.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import msgspec

from deepfusion_edge.erosion import MAX_BASES
from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_edge.fusion import MEAN, FusionRule
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.calibrate import calibrate, require_images
from deepfusion_toolkit.data.folder import Dataset, highest_label
from deepfusion_toolkit.defence import Defended, verdicts
from deepfusion_toolkit.models import Classifier, largest_size, require_same_classes
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.policy import possible
from deepfusion_toolkit.preprocess import spell
from deepfusion_toolkit.surgery import prefix_share
from deepfusion_toolkit.training import split


@dataclass(frozen=True)
class Settings:
    """How to join.

    Attributes:
        members: K of each model.
        fusion: how all predictions are fused.
        false_positive_rate: of the flags, on clean images; 0: no thresholds, nothing is flagged.
        unseen: no model was trained on the images; otherwise what hardening kept back is used.
        seed: of the factors drawn for calibration.
    """

    members: int = 4
    fusion: FusionRule = MEAN
    false_positive_rate: float = 0.01
    unseen: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.members <= 64:  # noqa: PLR2004 - as a plan allows
            raise UsageError(f"members must be in [1, 64], is {self.members}", "change --members")
        if not 0 <= self.false_positive_rate <= 0.5:  # noqa: PLR2004 - more flags than not
            raise UsageError(
                f"false-positive-rate must be in [0, 0.5], is {self.false_positive_rate}",
                "change --false-positive-rate",
            )


def join(
    models: Sequence[Classifier],
    parts: Sequence[Plan],
    dataset: Dataset,
    out: Path,
    settings: Settings,
) -> tuple[Plan, list[str]]:
    """Write the plan of an ensemble; return it, and what it lacks, in sentences.

    Args:
        models: hardened classifiers.
        parts: their plans, one each, in the same order.
        dataset: what the models were hardened on, or with ``unseen`` images that they never saw.
        out: the plan to write.
        settings: see ``Settings``.

    Raises:
        UsageError: too many models.
        InputError: too few images to keep back, or to calibrate on.
        ModelError: data, models and plans do not fit each other.
    """
    require_same_classes(models, dataset.classes, highest_label(dataset))
    bases = tuple(base for part in parts for base in part.bases)
    _require_one_kind(parts, bases)
    height, width = largest_size(models)
    held_out = dataset if settings.unseen else split(dataset).held_out
    rate = settings.false_positive_rate
    if rate:
        require_images(len(held_out), rate)
    joined = Plan(
        schema=2,
        classes=parts[0].classes,
        height=height,
        width=width,
        bases=bases,
        preprocess=parts[0].preprocess,
        members=settings.members,
        fusion=settings.fusion,
        prefix_share=0.0,
        network_cost=fmean(part.network_cost for part in parts for _ in part.bases),
        thresholds=None,
        settings=asdict(settings),
        figures={},
    )
    plans.require_fit(joined, models)
    defended = Defended.of(models, joined)
    judged = verdicts(
        defended, held_out, members=settings.members, thresholds=None, seed=settings.seed
    )
    hits = sum(v.label == i.label for v, i in zip(judged, held_out.items, strict=True))
    shared = prefix_share(*(base.graph_module for base in defended.bases))
    found = possible(
        defended,
        held_out,
        judged,
        members=settings.members,
        work=msgspec.structs.replace(joined, prefix_share=shared).work,
        rate=rate,
        seed=settings.seed,
    )
    figures: dict[str, float | int] = {
        "held_out": len(held_out),
        "fused_accuracy": hits / len(held_out),
    }
    if found.accuracy is not None:
        figures["policy_accuracy"] = found.accuracy
    plan = msgspec.structs.replace(
        joined,
        prefix_share=shared,
        thresholds=calibrate(judged, rate) if rate else None,
        policy=found.policy,
        figures=figures,
    )
    plans.write(plan, out)
    return plan, found.doubts


def _require_one_kind(parts: Sequence[Plan], bases: Sequence[plans.Base]) -> None:
    if len(bases) > MAX_BASES:
        raise UsageError(f"{len(bases)} models, at most {MAX_BASES} are fused", "give fewer")
    if len({base.model for base in bases}) < len(bases):
        raise ModelError("a model is given twice", "give each model once, or raise --members")
    for part in parts[1:]:
        if part.classes != parts[0].classes:
            raise ModelError(
                f"the plan of {part.bases[0].name} has the classes {', '.join(part.classes)},"
                f" that of {parts[0].bases[0].name} {', '.join(parts[0].classes)}",
                "harden all models on the same data",
            )
        if part.preprocess != parts[0].preprocess:
            raise ModelError(
                f"{part.bases[0].name} was hardened behind '{_words(part)}',"
                f" {parts[0].bases[0].name} behind '{_words(parts[0])}'",
                "harden all models with the same --preprocess",
            )


def _words(part: Plan) -> str:
    return " ".join(map(spell, part.preprocess)) or "nothing"
