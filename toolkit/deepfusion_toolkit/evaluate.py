"""Judging an adversarial set as saved: success over what the target gets right when clean."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from deepfusion_edge.errors import InputError
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, highest_label
from deepfusion_toolkit.defence import verdicts
from deepfusion_toolkit.models import Classifier, require_same_classes
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.statistics import Share, share
from deepfusion_toolkit.surgery import erode

BATCH = 32


class TargetResult(msgspec.Struct, frozen=True):
    """What one target makes of the set.

    Attributes:
        name: the target, with its plan's K if it is defended.
        images: how many were judged.
        accuracy: share of judged images classified as labelled.
        clean_accuracy: the same on the originals; None without ``--clean``.
        success: attacks that worked, over images right when clean; None without ``--clean``.
        success_all: attacks that worked over all images.
        flagged: suspect or rejected; None for an undefended target.
        flagged_clean: the same on the originals.
        predictions: class numbers, in the order of the set.
        clean_predictions: class numbers of the originals.
    """

    name: str
    images: int
    accuracy: Share
    clean_accuracy: Share | None
    success: Share | None
    success_all: Share
    flagged: Share | None
    flagged_clean: Share | None
    predictions: list[int]
    clean_predictions: list[int] | None


def originals(dataset: Dataset, clean: Dataset) -> Dataset:
    """Bring the clean images into the order of the attacked ones, matched by name without suffix.

    Raises:
        InputError: an original is missing or its label differs.
    """
    by_name = {str(Path(i.file).with_suffix("")): i for i in clean.items}
    items = []
    for item in dataset.items:
        original = by_name.get(str(Path(item.file).with_suffix("")))
        if original is None or original.label != item.label:
            why = "is missing" if original is None else "has another label"
            raise InputError(
                f"the original of {item.file} {why} in {clean.root}",
                "give the folder that the set was crafted from as --clean",
            )
        items.append(original)
    return Dataset(clean.root, tuple(items), clean.classes, clean.layout)


def predict(model: Classifier, dataset: Dataset) -> list[int]:
    """Classify every image, read and resized as the device does."""
    found: list[int] = []
    with progress(f"judging with {model.name}", len(dataset)) as advance, torch.no_grad():
        for at in range(0, len(dataset), BATCH):
            items = dataset.items[at : at + BATCH]
            found += model(folder.images_as_input(dataset, items, *model.size)).argmax(1).tolist()
            advance(len(items))
    return found


def evaluate(
    dataset: Dataset,
    clean: Dataset | None,
    targets: Sequence[Classifier],
    *,
    plan: Plan | None = None,
    seed: int = 0,
) -> list[TargetResult]:
    """Judge a set on each target; with a plan, the (one) target is judged as a fused ensemble too.

    Raises:
        InputError, ModelError: data and targets do not fit.
    """
    require_same_classes(targets, dataset.classes, highest_label(dataset))
    matched = originals(dataset, clean) if clean is not None else None
    results = []
    for model in targets:
        before = predict(model, matched) if matched else None
        results.append(_result(model.name, dataset, predict(model, dataset), before))
    if plan is not None:
        eroded = erode(targets[0], plan.sites)
        judged = [
            verdicts(eroded, d, members=plan.members, thresholds=plan.thresholds, seed=seed)
            for d in ([dataset, matched] if matched else [dataset])
        ]
        flags = [[v.state != "accept" for v in vs] for vs in judged]
        labels = [[v.label for v in vs] for vs in judged]
        before = labels[1] if matched else None
        name = f"{targets[0].name}, fused over {plan.members}"
        results.append(_result(name, dataset, labels[0], before, flags))
    return results


def _result(
    name: str,
    dataset: Dataset,
    after: list[int],
    before: list[int] | None,
    flags: list[list[bool]] | None = None,
) -> TargetResult:
    total = len(dataset)
    worked = [
        p == i.target if i.target is not None else p != i.label
        for p, i in zip(after, dataset.items, strict=True)
    ]
    clean = success = None
    if before is not None:
        right = [p == i.label for p, i in zip(before, dataset.items, strict=True)]
        clean = share(sum(right), total)
        success = share(sum(w for w, r in zip(worked, right, strict=True) if r), sum(right))
    hits = sum(p == i.label for p, i in zip(after, dataset.items, strict=True))
    return TargetResult(
        name=name,
        images=total,
        accuracy=share(hits, total),
        clean_accuracy=clean,
        success=success,
        success_all=share(sum(worked), total),
        flagged=share(sum(flags[0]), total) if flags else None,
        flagged_clean=share(sum(flags[1]), total) if flags and len(flags) > 1 else None,
        predictions=after,
        clean_predictions=before,
    )
