"""The transfer study: many attacked sets against many targets, and what is black-box about it."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from deepfusion_toolkit import sets as attacked
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.engines import Engine, Local, threads_of
from deepfusion_toolkit.evaluate import Judge, TargetResult, judges, originals, worked
from deepfusion_toolkit.looks import LookJob, looked_at
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.perception import Distance, distance
from deepfusion_toolkit.plan import Plan, fingerprint
from deepfusion_toolkit.sets import AttackedSet
from deepfusion_toolkit.sources import Source
from deepfusion_toolkit.statistics import Mean, paired_mean

DOUBTFUL = 0.5
"""A target that knows fewer of the clean images may count its classes in another order."""


class SetResult(msgspec.Struct, frozen=True):
    """One row of the study.

    Attributes:
        name: of the set.
        path: its folder as given.
        images: how many it has.
        attack, eps, surrogates, passes_per_image: from its manifest; None or empty without one.
        head: the manifest's whole head, None without one.
        ssim, linf, l2: see ``perception.Distance``; None without originals.
        targets: one result for each target, in the study's order.
        black_box_mean: success over images right when clean, mean over the targets that the set
            was not crafted on; a target's fused form is not counted again. None without
            originals or without such a target.
        black_box_mean_all: the same of success over all images.
    """

    name: str
    path: str
    images: int
    attack: str | None
    eps: float | None
    surrogates: list[str]
    passes_per_image: int | None
    head: Mapping[str, object] | None
    ssim: float | None
    linf: float | None
    l2: float | None
    targets: list[TargetResult]
    black_box_mean: Mean | None
    black_box_mean_all: Mean | None


class Study(msgspec.Struct, frozen=True):
    """Schema 1 of ``deepfusion evaluate --json``.

    Attributes:
        clean: folder of the originals, None without one.
        sets: at least one; every one has the same targets in the same order.
        warnings: what makes figures doubtful, in words.
    """

    schema: Literal[1]
    clean: str | None
    sets: list[SetResult]
    warnings: list[str]


def study(
    sets: Sequence[AttackedSet],
    clean: Dataset | None,
    targets: Sequence[Classifier],
    *,
    plan: Plan | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    threads: int | None = None,
) -> Study:
    """Judge every set on every target; with a plan, the targets as one fused ensemble too.

    Args:
        sets: at least one.
        clean: the originals of all of them; each is judged once for each target.
        targets: at least one.
        plan: of all the targets, in its order.
        seed: of erosion factors.
        engine: where models look at images; None: in this process.
        threads: of torch in each process; None: the engine's choice.

    Raises:
        UsageError: other processes cannot load a model that was not loaded from a SPEC.
        UnreachableError: too many workers were lost.
        InputError, ModelError: sets, originals and targets do not fit; the set is named.
    """
    attacked.require_fitting(sets, clean, targets)
    matched: list[Dataset | None] = []
    for one in sets:
        with attacked.naming(one):
            matched.append(originals(one.dataset, clean) if clean is not None else None)
    hashes = {id(model): fingerprint(model.core) for model in targets}
    asked = judges(targets, plan, seed)
    if engine is None or isinstance(engine, Local):
        with threads_of(threads or Local().threads):
            return _judged(sets, matched, clean, asked, hashes)
    pairs = [(one.dataset, before) for one, before in zip(sets, matched, strict=True)]
    job = LookJob(tuple(map(Source.of, targets)), plan, seed)
    asked = looked_at(asked, pairs, job, engine, threads or engine.threads)
    return _judged(sets, matched, clean, asked, hashes)


def _judged(
    sets: Sequence[AttackedSet],
    matched: Sequence[Dataset | None],
    clean: Dataset | None,
    asked: Sequence[Judge],
    hashes: Mapping[int, str],
) -> Study:
    names = _told_apart([judge.name for judge in asked])
    found = []
    for one, before in zip(sets, matched, strict=True):
        with attacked.naming(one):
            far = distance(one.dataset, before) if before is not None else None
            results = [
                msgspec.structs.replace(
                    judge.result(one.dataset, before),
                    name=name,
                    white_box=any(one.origin.used(m.name, hashes[id(m)]) for m in judge.models),
                )
                for judge, name in zip(asked, names, strict=True)
            ]
        found.append(_row(one, far, results, _black_box(asked, results)))
    root = str(clean.root) if clean is not None else None
    return Study(1, root, found, [*_doubts(found)])


def black_box_mean(
    one: Dataset, results: Sequence[TargetResult], *, of_all: bool = False
) -> Mean | None:
    """Mean success of these targets on one set, each weighing the same, paired over images.

    Args:
        one: the set.
        results: what the targets made of it.
        of_all: count all images instead of those right when clean.

    Returns:
        None without a target, or if images right when clean are asked for and not known.
    """
    if not results or (not of_all and any(r.clean_predictions is None for r in results)):
        return None
    won = np.array(
        [[worked(i, p) for i, p in zip(one.items, r.predictions, strict=True)] for r in results]
    )
    if of_all:
        return paired_mean(won, np.ones_like(won))
    labels = np.array([item.label for item in one.items])
    return paired_mean(won, np.array([r.clean_predictions for r in results]) == labels)


def _black_box(asked: Sequence[Judge], results: Sequence[TargetResult]) -> list[TargetResult]:
    """Keep the targets that the attack has not seen; a fused form is no target of its own."""
    return [
        result
        for judge, result in zip(asked, results, strict=True)
        if not result.white_box and not judge.fused
    ]


def _row(
    one: AttackedSet,
    far: Distance | None,
    results: list[TargetResult],
    unseen: list[TargetResult],
) -> SetResult:
    return SetResult(
        name=one.name,
        path=str(one.dataset.root),
        images=len(one.dataset),
        attack=one.origin.attack,
        eps=one.origin.eps,
        surrogates=one.origin.surrogates,
        passes_per_image=one.origin.passes_per_image,
        head=one.head,
        ssim=far.ssim if far else None,
        linf=far.linf if far else None,
        l2=far.l2 if far else None,
        targets=results,
        black_box_mean=black_box_mean(one.dataset, unseen),
        black_box_mean_all=black_box_mean(one.dataset, unseen, of_all=True),
    )


def _doubts(rows: Sequence[SetResult]) -> list[str]:
    return [
        f"{result.name} has only {known.hits} of {known.total} clean images of {row.name} right: "
        "are its classes numbered in the order of another data set?"
        for row in rows
        for result in row.targets
        if (known := result.clean_accuracy) is not None and known.value < DOUBTFUL
    ]


def _told_apart(names: Sequence[str]) -> list[str]:
    """Number the second and later ones of a name."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
