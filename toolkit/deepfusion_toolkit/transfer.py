"""Trying an attack without saving a set: craft in memory, round, ask targets, remember outcomes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from deepfusion_toolkit.attacks import Settings, attack, prepare, quantise
from deepfusion_toolkit.craft import bank_of, chunks, targets_of
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.models import Classifier, require_same_classes
from deepfusion_toolkit.statistics import Mean, paired_mean

Kept = dict[str, list[int]]
"""File -> what each target said of the attacked image."""


@dataclass
class Trial:
    """Surrogates, targets and images on which attacks are compared.

    Attributes:
        right: file -> whether each target classifies the clean image as labelled.
    """

    dataset: Dataset
    surrogates: Sequence[Classifier]
    targets: Sequence[Classifier]
    batch: int = 10
    right: dict[str, list[bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.right:  # the same images, or fewer, were judged before
            return
        models = [*self.surrogates, *self.targets]
        require_same_classes(models, self.dataset.classes, folder.highest_label(self.dataset))
        for part in chunks(self.dataset, self.dataset.items, self.batch):
            said = self.ask(folder.stack(self.dataset, part))
            for item, labels in zip(part, said, strict=True):
                self.right[item.file] = [label == item.label for label in labels]

    def ask(self, images: Tensor) -> list[list[int]]:
        """For each of [N, 3, H, W] in [0, 1]: the class that each target gives it."""
        with torch.no_grad():
            said = torch.stack([target(images).argmax(1) for target in self.targets], 1)
        rows: list[list[int]] = said.tolist()
        return rows

    def items(self, settings: Settings) -> tuple[Item, ...]:
        """The images with their target classes, if the attack wants some."""
        if settings.targeted:
            return targets_of(self.dataset, self.targets[0].classes, settings.seed)
        return self.dataset.items

    def craft(
        self, settings: Settings, kept: Kept, advance: Callable[[Kept], None] = lambda _: None
    ) -> int:
        """Attack what is not kept yet; add what the targets say of the rounded images.

        Args:
            settings: of the attack.
            kept: grows; images in it are not attacked again.
            advance: told of every batch that is done.

        Returns:
            Passes per image, or 0 if nothing was left to do.
        """
        left = [item for item in self.items(settings) if item.file not in kept]
        if not left:
            return 0
        prepared, passes = prepare(self.surrogates, settings), 0
        bank = self._bank(settings)
        for part in chunks(self.dataset, left, self.batch):
            filled = [*part, *[part[-1]] * (self.batch - len(part))]
            clean = folder.stack(self.dataset, filled)
            goal = [i.target if settings.targeted else i.label for i in filled]
            keys = [i.file for i in filled]
            made = attack(prepared, clean, torch.tensor(goal), keys, settings, bank)
            saved = quantise(made.images, clean, settings.eps)[: len(part)].float() / 255
            new = dict(zip((i.file for i in part), self.ask(saved), strict=True))
            kept.update(new)
            advance(new)
            passes = made.passes
        return passes

    def _bank(self, settings: Settings) -> Tensor | None:
        if not settings.mixes:
            return None
        first = next(iter(folder.groups_by_size(self.dataset, self.dataset.items).values()))
        chosen = [i for i in bank_of(self.dataset, settings.seed) if i in first]
        return folder.stack(self.dataset, chosen or first[:1])

    def success(self, settings: Settings, kept: Kept, *, of_all: bool = False) -> Mean | None:
        """Mean success over targets, with a paired bootstrap interval over images.

        Args:
            settings: the attack's.
            kept: what the targets said; other images are left out.
            of_all: count every image, not only those that a target has right when clean.
        """
        hits, counted = self.outcomes(settings, kept)
        return paired_mean(hits, np.ones_like(counted) if of_all else counted, settings.seed)

    def outcomes(
        self, settings: Settings, kept: Kept
    ) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.bool_]], ...]:
        """[T, N] each: did the attack work, was the image right when clean."""
        items = [i for i in self.items(settings) if i.file in kept]
        hits = [
            [
                said == item.target if settings.targeted else said != item.label
                for said in kept[item.file]
            ]
            for item in items
        ]
        return np.array(hits, bool).T, np.array([self.right[i.file] for i in items], bool).T
