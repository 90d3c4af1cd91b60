"""What members make of held-out images: right answers fused, and scores in feature space."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.fusion import feature_variance, fuse
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden.images import Images

Floats = npt.NDArray[np.float64]


class Exam(NamedTuple):
    """Held-out images: clean ones, and attacked ones of each source by its name."""

    clean: Images
    attacked: dict[str, Images]


class Figures(msgspec.Struct, frozen=True):
    """What a set of members reaches.

    Attributes:
        clean: share of clean images right, fused, in [0, 1].
        robust: the same of attacked ones, for each source.
        auroc: probability that an attacked image scores above a clean one; 0.5 without any.
    """

    clean: float
    robust: dict[str, float]
    auroc: float

    @property
    def worth(self) -> float:
        """What is maximised within the budget, in [0, 3].

        Clean accuracy, mean robust accuracy and detection weigh the same: where two of them are
        near their ceiling, the third decides rather than chance.
        """
        return self.clean + self.mean_robust + self.auroc

    @property
    def mean_robust(self) -> float:
        """Share of attacked images right, each source weighing the same; 0 without any."""
        return sum(self.robust.values()) / max(1, len(self.robust))


class _Looked(NamedTuple):
    right: Floats  # [numbers of members, N]
    score: Floats


def examine(model: Defended, exam: Exam, members: Sequence[int], seed: int) -> dict[int, Figures]:
    """Judge held-out images as the device would, for several K at once.

    The first members of many are the members of few, so the largest K is run and the others are
    read off.
    """
    clean = _look(model, exam.clean, members, seed)
    attacked = {name: _look(model, one, members, seed) for name, one in exam.attacked.items()}
    found = {}
    for at, count in enumerate(members):
        scores = [looked.score[at] for looked in attacked.values()]
        found[count] = Figures(
            float(clean.right[at].mean()),
            {name: float(looked.right[at].mean()) for name, looked in attacked.items()},
            auroc(clean.score[at], np.concatenate(scores)) if scores else 0.5,
        )
    return found


def auroc(low: Floats, high: Floats) -> float:
    """Probability that one of ``high`` is above one of ``low``, ties by half (Mann & Whitney)."""
    above = (high[:, None] > low[None]).mean()
    return float(above + (high[:, None] == low[None]).mean() / 2)


def _look(model: Defended, images: Images, members: Sequence[int], seed: int) -> _Looked:
    right = np.zeros((len(members), len(images.keys)))
    score = np.zeros_like(right)
    device = next(model.parameters()).device
    with torch.no_grad():
        for index, key in enumerate(images.keys):
            factors = sample(
                model.sites, seed=seed, stream=stream_of("evaluate", key), members=max(members)
            )
            image = (images.pixels[index : index + 1] / 255).to(device)
            (seen,) = model.look(model.prepared(image), torch.from_numpy(factors).to(device))
            probabilities = seen.logits.softmax(1).cpu().numpy()
            features = seen.features.cpu().numpy()
            for at, count in enumerate(members):
                said = int(fuse(probabilities[:count], model.rule).argmax())
                right[at, index] = said == int(images.labels[index])
                score[at, index] = feature_variance(features[:count])
    return _Looked(right, score)
