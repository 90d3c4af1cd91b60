"""Judging an adversarial set as saved: success over what the target gets right when clean."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from deepfusion_edge.errors import InputError
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, Item, highest_label
from deepfusion_toolkit.defence import Defended, verdicts
from deepfusion_toolkit.models import Classifier, require_same_classes
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.statistics import Share, share

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
        white_box: whether the set was crafted on this very target.
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
    white_box: bool = False


class Said(NamedTuple):
    """What a target says of one image: its class, and if it is defended, whether it is flagged."""

    label: int
    flagged: bool | None = None


Look = Callable[[Dataset], list[Said]]
"""Judges every image of a data set, in order."""


class Judge:
    """A target, plain or fused, that looks at each clean image once, however often it is asked.

    Attributes:
        name: for the result.
        models: the classifiers behind it: one, or those of the plan.
        fused: whether it is the defended form.
    """

    def __init__(
        self, name: str, models: Sequence[Classifier], look: Look, *, fused: bool = False
    ) -> None:
        self.name, self.models, self.fused = name, models, fused
        self._look = look
        self._known: dict[tuple[Path, str], Said] = {}

    def clean(self, matched: Dataset) -> list[Said]:
        """Judge originals, in order; known ones are not looked at again."""
        root = matched.root
        new = tuple(i for i in matched.items if (root, i.file) not in self._known)
        if new:
            said = self._look(replace(matched, items=new))
            self._known |= {(root, i.file): s for i, s in zip(new, said, strict=True)}
        return [self._known[root, i.file] for i in matched.items]

    def result(self, dataset: Dataset, matched: Dataset | None) -> TargetResult:
        """Judge a set; ``matched`` holds its originals in the same order."""
        before = self.clean(matched) if matched is not None else None
        return _result(self.name, dataset, self._look(dataset), before)


def judges(targets: Sequence[Classifier], plan: Plan | None = None, seed: int = 0) -> list[Judge]:
    """One judge for each target; with a plan, one more for all of them, fused."""
    found = [Judge(m.name, [m], _plain(m)) for m in targets]
    if plan is not None:
        names = " + ".join(model.name for model in targets)
        each = f"{len(targets)}x{plan.members}" if len(targets) > 1 else f"{plan.members}"
        look = fused(targets, plan, seed)
        found.append(Judge(f"{names}, fused over {each}", targets, look, fused=True))
    return found


def evaluate(
    dataset: Dataset,
    clean: Dataset | None,
    targets: Sequence[Classifier],
    *,
    plan: Plan | None = None,
    seed: int = 0,
) -> list[TargetResult]:
    """Judge one set on each target; with a plan, its models as a fused ensemble too.

    Raises:
        InputError, ModelError: data and targets do not fit.
    """
    require_same_classes(targets, dataset.classes, highest_label(dataset))
    matched = originals(dataset, clean) if clean is not None else None
    return [judge.result(dataset, matched) for judge in judges(targets, plan, seed)]


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


def predict(model: Classifier, dataset: Dataset, *, shown: bool = True) -> list[int]:
    """Classify every image, read and resized as the device does."""
    found: list[int] = []
    line = f"judging with {model.name}"
    with progress(line, len(dataset), shown=shown) as advance, torch.no_grad():
        for at in range(0, len(dataset), BATCH):
            items = dataset.items[at : at + BATCH]
            found += model(folder.images_as_input(dataset, items, *model.size)).argmax(1).tolist()
            advance(len(items))
    return found


def worked(item: Item, label: int) -> bool:
    """Whether an attack worked: its target class is reached, or any class but the true one."""
    return label == item.target if item.target is not None else label != item.label


def _plain(model: Classifier) -> Look:
    return lambda dataset: [Said(label) for label in predict(model, dataset)]


def fused(models: Sequence[Classifier], plan: Plan, seed: int, *, shown: bool = True) -> Look:
    """Judge as the device does, by the plan's members of its models."""
    defended = Defended.of(models, plan)

    def look(dataset: Dataset) -> list[Said]:
        found = verdicts(
            defended,
            dataset,
            members=plan.members,
            thresholds=plan.thresholds,
            seed=seed,
            shown=shown,
        )
        return [Said(v.label, v.state != "accept") for v in found]

    return look


def _result(
    name: str, dataset: Dataset, after: list[Said], before: list[Said] | None
) -> TargetResult:
    total = len(dataset)
    won = [worked(i, s.label) for i, s in zip(dataset.items, after, strict=True)]
    clean = success = None
    if before is not None:
        right = [s.label == i.label for s, i in zip(before, dataset.items, strict=True)]
        clean = share(sum(right), total)
        success = share(sum(w for w, r in zip(won, right, strict=True) if r), sum(right))
    hits = sum(s.label == i.label for s, i in zip(after, dataset.items, strict=True))
    return TargetResult(
        name=name,
        images=total,
        accuracy=share(hits, total),
        clean_accuracy=clean,
        success=success,
        success_all=share(sum(won), total),
        flagged=_flagged(after),
        flagged_clean=_flagged(before) if before is not None else None,
        predictions=[s.label for s in after],
        clean_predictions=[s.label for s in before] if before is not None else None,
    )


def _flagged(said: Sequence[Said]) -> Share | None:
    if said[0].flagged is None:
        return None
    return share(sum(bool(s.flagged) for s in said), len(said))
