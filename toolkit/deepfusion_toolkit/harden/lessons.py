"""What one step of training sees, for each method: images, and what is wanted of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_toolkit.augment import Turn, turned
from deepfusion_toolkit.harden.images import Images, partly
from deepfusion_toolkit.harden.itself import OnItself
from deepfusion_toolkit.harden.pool import Examples, pairs_of

CLEAN = 0.25
"""Clean images for each attacked one."""
HEED = 0.3
"""Weight of the undefended model's answers beside the labels."""


class Lesson(NamedTuple):
    """One batch: images [M, 3, H, W] in [0, 1] and the wanted probabilities [M, C]."""

    images: Tensor
    wanted: Tensor


class Teacher(Protocol):
    """Makes batches."""

    def lesson(self, chosen: Tensor, draw: torch.Generator) -> Lesson:
        """The batch of these clean images [N]."""
        ...


@dataclass
class Transfer:
    """Images attacked on the model as it is now and was before, and a quarter of them as they are.

    Against examples of other networks one step on the model itself teaches more than their
    examples do: those of few surrogates teach what these surrogates' perturbations look like,
    and against networks that were not among them, even against the same architectures trained
    again, accuracy stays low.

    What is wanted is in part what the undefended model says of the clean image (Furlanello et al.,
    ICML 2018): labels alone are soon learned by heart, and clean accuracy on others falls.
    """

    images: Images
    itself: OnItself
    turns: Sequence[Turn]
    undefended: Callable[[Tensor], Tensor]

    def lesson(self, chosen: Tensor, draw: torch.Generator) -> Lesson:
        """The batch of these clean images [N]: some of them, then all attacked."""
        some = self.images.some(chosen.tolist())
        clean = turned(some.pixels / 255, self.turns, draw)
        moved = partly(clean, self.itself(some.shown_as(clean), draw), draw)
        wanted = _heeding(some.labels, self.undefended(clean))
        count = ceil(CLEAN * len(chosen))
        return Lesson(torch.cat((clean[:count], moved)), torch.cat((wanted[:count], wanted)))


@dataclass
class Known:
    """Clean images, and as many examples of the pool: what few epochs can learn.

    It holds against the networks that were seen, and little against others.
    """

    images: Images
    examples: Sequence[Examples]
    odds: Sequence[float]
    turns: Sequence[Turn]
    undefended: Callable[[Tensor], Tensor]

    def lesson(self, chosen: Tensor, draw: torch.Generator) -> Lesson:
        """The batch of these clean images [N], then N examples of likely sources."""
        clean = turned(self.images.pixels[chosen] / 255, self.turns, draw)
        drawn = pairs_of(self.images, self.examples, self.odds, len(chosen), draw)
        labels = self.images.labels[torch.cat((chosen, drawn.origin))]
        wanted = _heeding(labels, self.undefended(torch.cat((clean, drawn.clean))))
        return Lesson(torch.cat((clean, drawn.attacked)), wanted)


def _heeding(labels: Tensor, undefended: Tensor) -> Tensor:
    """Labels [M], and in part what the undefended model says [M, C]."""
    return torch.lerp(functional.one_hot(labels, undefended.shape[1]).float(), undefended, HEED)


@dataclass
class Adversarial:
    """Clean images, and the same ones attacked on the model as it is now (Madry et al., 2018)."""

    images: Images
    itself: OnItself
    turns: Sequence[Turn]
    classes: int

    def lesson(self, chosen: Tensor, draw: torch.Generator) -> Lesson:
        """The batch of these clean images [N] and themselves attacked."""
        some = self.images.some(chosen.tolist())
        clean = turned(some.pixels / 255, self.turns, draw)
        moved = self.itself(some.shown_as(clean), draw)
        wanted = functional.one_hot(some.labels.repeat(2), self.classes).float()
        return Lesson(torch.cat((clean, moved)), wanted)


@dataclass
class Distillation:
    """Clean images with labels, later with the model's own softened answers (Papernot, 2016)."""

    images: Images
    soft: Tensor | None
    turns: Sequence[Turn]
    classes: int

    def lesson(self, chosen: Tensor, draw: torch.Generator) -> Lesson:
        """The batch of these clean images [N]."""
        clean = turned(self.images.pixels[chosen] / 255, self.turns, draw)
        if self.soft is not None:
            return Lesson(clean, self.soft[chosen])
        labels = self.images.labels[chosen]
        return Lesson(clean, functional.one_hot(labels, self.classes).float())
