"""The transfer protocol: methods x budgets on the same images, outcomes kept image by image."""

import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import msgspec

from deepfusion_toolkit.attacks import Settings, cost, settings_for
from deepfusion_toolkit.files import sha256_of, write_bytes
from deepfusion_toolkit.models import smallest_side
from deepfusion_toolkit.names import DEEP_FUSION
from deepfusion_toolkit.plan import fingerprint
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.statistics import Mean, Share, share
from deepfusion_toolkit.transfer import Kept, Trial

ENS = "mi"
"""Momentum on the mean of logits: the ensemble baseline."""


class Figure(msgspec.Struct, frozen=True):
    """One method at one budget.

    Attributes:
        budget, spent: passes per image, all surrogates counted: allowed, and made.
        images: how many were attacked.
        success: black-box mean over images right when clean; ``success_all`` over all images.
        targets: each target's own success, in the order of the targets.
        settings: what the budget chose.
    """

    method: str
    budget: int
    spent: int
    images: int
    success: Mean | None
    success_all: Mean | None
    targets: list[Share]
    settings: Settings


class Record(msgspec.Struct, frozen=True):
    """One image's outcome in the journal; ``image`` is the start of the file's hash."""

    key: str
    file: str
    image: str
    said: list[int]


class Study:
    """A trial whose outcomes survive an interruption."""

    def __init__(self, trial: Trial, state: Path | None) -> None:
        self.trial, self.state = trial, state
        models = [fingerprint(m.core) for m in (*trial.surrogates, *trial.targets)]
        self.identity = repr((models, len(trial.surrogates), trial.batch))
        items = trial.dataset.items
        self.image = {i.file: sha256_of(trial.dataset.root / i.file)[:16] for i in items}
        self.kept: dict[str, Kept] = {}
        if state is not None and state.is_file():
            whole, newline, cut = state.read_bytes().rpartition(b"\n")
            if cut:  # an interruption in the last line
                write_bytes(state, whole + newline)
            for line in whole.split(b"\n") if whole else []:
                record = msgspec.json.decode(line, type=Record)
                if self.image.get(record.file) == record.image:
                    self.kept.setdefault(record.key, {})[record.file] = record.said

    def key(self, settings: Settings) -> str:
        """Hash of everything that decides about an outcome, but the image.

        Parts at their default are left out: a new part of the attack spoils no journal.
        """
        parts = {
            f.name: v for f in fields(settings) if (v := getattr(settings, f.name)) != f.default
        }
        return hashlib.sha256(f"{self.identity}{parts}".encode()).hexdigest()[:16]

    def figure(self, method: str, budget: int, settings: Settings, images: int) -> Figure:
        """Attack the first so many images (what is kept is not repeated) and judge them."""
        few = replace(self.trial.dataset, items=self.trial.dataset.items[:images])
        trial = replace(self.trial, dataset=few)
        key = self.key(settings)
        kept = self.kept.setdefault(key, {})
        wanted = {i.file for i in trial.dataset.items}
        with progress(f"{method}, {budget} passes", len(wanted)) as advance:
            advance(len(wanted & kept.keys()))

            def save(new: Kept) -> None:
                advance(len(new))
                if self.state is not None:
                    records = [Record(key, f, self.image[f], said) for f, said in new.items()]
                    with self.state.open("ab") as file:
                        file.write(b"".join(msgspec.json.encode(r) + b"\n" for r in records))

            trial.craft(settings, kept, save)
        here = {file: said for file, said in kept.items() if file in wanted}
        hits, counted = trial.outcomes(settings, here)
        return Figure(
            method=method,
            budget=budget,
            spent=cost(settings, len(trial.surrogates)),
            images=len(here),
            success=trial.success(settings, here),
            success_all=trial.success(settings, here, of_all=True),
            targets=[
                share(int((h & c).sum()), int(c.sum())) for h, c in zip(hits, counted, strict=True)
            ],
            settings=settings,
        )


def untargeted(
    study: Study, methods: Sequence[str], budgets: dict[int, int], eps: float, seed: int
) -> list[Figure]:
    """Every method at every budget, each on so many images."""
    count, side = len(study.trial.surrogates), smallest_side(study.trial.surrogates)
    return [
        study.figure(
            method,
            budget,
            settings_for(method, passes=budget, surrogates=count, eps=eps, seed=seed, side=side),
            images,
        )
        for budget, images in budgets.items()
        for method in methods
    ]


def targeted(study: Study, steps: int, eps: float, images: int, seed: int) -> list[Figure]:
    """Deep fusion against the Logit attack, ``steps`` passes of every surrogate each."""
    count, side = len(study.trial.surrogates), smallest_side(study.trial.surrogates)
    budget = steps * count
    return [
        study.figure(
            method,
            budget,
            settings_for(
                method,
                passes=budget,
                surrogates=count,
                eps=eps,
                targeted=True,
                seed=seed,
                side=side,
            ),
            images,
        )
        for method in (DEEP_FUSION, "logit")
    ]


def summary(figures: Sequence[Figure], aimed: Sequence[Figure]) -> dict[str, float | int | None]:
    """The figures that are held against a goal: the smallest margin over the budgets."""
    over_ens, over_best, images = [], [], []
    for budget in {f.budget: None for f in figures}:
        value = {
            f.method: f.success.value
            for f in figures
            if f.budget == budget and f.success is not None
        }
        images += [f.images for f in figures if f.budget == budget]
        if DEEP_FUSION not in value:
            continue
        ours = value.pop(DEEP_FUSION)
        if ENS in value:
            over_ens.append(100 * (ours - value[ENS]))
        if value:
            over_best.append(100 * (ours - max(value.values())))
    ratio = None
    if len(aimed) == 2 and aimed[0].success and aimed[1].success and aimed[1].success.value:  # noqa: PLR2004
        ratio = aimed[0].success.value / aimed[1].success.value
    return {
        "deep_fusion_minus_ens_points": min(over_ens, default=None),
        "deep_fusion_minus_best_baseline_points": min(over_best, default=None),
        "targeted_over_logit": ratio,
        "n_images": min(images, default=0),
        "n_images_targeted": aimed[0].images if aimed else 0,
    }
