"""Surrogates that number their classes in another order than the data set does."""

from collections.abc import Sequence

import torch

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.models import Classifier

LOOKED_AT = 64
FEWEST = 12
"""Images below which chance could explain what is seen."""
GOOD, CHANCE = 0.5, 2.0
"""A share of right answers that shows that labels fit; how many times chance a misfit reaches."""


def require_fitting_labels(models: Sequence[Classifier], dataset: Dataset, seed: int = 0) -> None:
    """Refuse surrogates that are no better than chance where another one is right.

    Args:
        models: surrogates with equal numbers of classes.
        dataset: clean images with labels; at most 64 of them are looked at.
        seed: of their choice.

    Raises:
        ModelError: naming the surrogate, its share of right answers and the other's.
    """
    some = folder.subset(dataset, limit=min(LOOKED_AT, len(dataset)), seed=seed)
    if len(some) < FEWEST or len(models) < 2:  # noqa: PLR2004
        return
    right = {}
    with torch.no_grad():
        for model in models:
            hits = 0
            for at in range(0, len(some), 16):
                items = some.items[at : at + 16]
                said = model(folder.images_as_input(some, items, *model.size)).argmax(1).tolist()
                hits += sum(s == i.label for s, i in zip(said, items, strict=True))
            right[model.name] = hits / len(some)
    best = max(right, key=lambda name: right[name])
    for model in models:
        share = right[model.name]
        if right[best] >= GOOD and share <= CHANCE / model.classes:
            raise ModelError(
                f"surrogate {model.name} classifies {share:.0%} of {len(some)} clean images as "
                f"labelled, {best} {right[best]:.0%}: its classes seem to be in another order",
                "use a model trained on these classes in this order, or leave it out",
            )
