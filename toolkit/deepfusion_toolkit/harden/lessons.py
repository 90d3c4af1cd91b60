"""What one step of training sees, for each method: images, wanted probabilities, which attacked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_edge.erosion import stream_of
from deepfusion_toolkit.augment import Turn, turned
from deepfusion_toolkit.harden.images import Images
from deepfusion_toolkit.harden.itself import OnItself
from deepfusion_toolkit.harden.pool import Examples

PAIRS = 0.5
"""Pairs of the pool for each image that is attacked on the model itself."""
HARD = 0.7
"""Weight of all attacked images then; with even ones the clean-accuracy budget was not spent."""
HEED = 0.5
"""Weight of the undefended model's answers beside the labels."""


class Lesson(NamedTuple):
    """One batch: clean images, then attacked ones.

    Attributes:
        images: [M, 3, H, W] in [0, 1].
        wanted: probabilities [M, C].
        attacked: how many are, at the end.
        scored: how many of these, at the end, the scores shall notice.
        weight: of the attacked images' cross-entropy, in [0, 1]; clean ones have the rest.
    """

    images: Tensor
    wanted: Tensor
    attacked: int
    scored: int
    weight: float = 0.5


class Teacher(Protocol):
    """Makes batches."""

    def lesson(self, chosen: Tensor, draw: torch.Generator) -> Lesson:
        """The batch of these clean images [N]."""
        ...


@dataclass
class Transfer:
    """Clean images, the same attacked, and examples of the pool beside their own clean images.

    Each source comes by its weight. What tells an example from its own clean image is the attack
    and nothing else; steganalysis trains on such pairs, because without them a network looks at
    content for long before it sees noise. Half of the examples keep their whole perturbation, the
    others half of it or more: the score shall not be asked to tell a clean image from one that is
    nearly so. Pairs are not turned or mirrored: an attack keeps the orientation of the nets it was
    crafted on, and turned ones cost robustness. The other clean images are turned and shifted.

    These others are attacked on the model itself. Alone, examples of few surrogates teach what
    these surrogates' perturbations look like, not robustness: against nets that were not among
    them, even against the same architectures trained again, accuracy stays low. The scores are not
    asked to notice these: they move as the model does. There are fewer pairs then. While attacks
    are only learned to be told, and in short runs (``itself`` is None), all are of the pool.

    What is wanted of all of them is in part what the undefended model says of the clean image
    (Furlanello et al., ICML 2018): labels alone are soon learned by heart, and clean accuracy on
    other images falls.
    """

    images: Images
    examples: Sequence[Examples]
    weights: Sequence[float]
    turns: Sequence[Turn]
    undefended: Callable[[Tensor], Tensor]
    itself: OnItself | None
    classes: int

    def lesson(self, chosen: Tensor, draw: torch.Generator) -> Lesson:
        """Clean images [N] and those of the pairs, then the attacked ones of both."""
        count = len(chosen) if self.itself is None else ceil(PAIRS * len(chosen))
        base, moved, origin = self._pairs(count, draw)
        shown = turned(self.images.pixels[chosen] / 255, self.turns, draw)
        clean = torch.cat((shown, base))
        labels = functional.one_hot(
            self.images.labels[torch.cat((chosen, origin))], self.classes
        ).float()
        wanted = torch.lerp(labels, self.undefended(clean), HEED)
        if self.itself is None:
            return Lesson(
                torch.cat((clean, moved)), torch.cat((wanted, wanted[-count:])), count, count
            )
        some = self.images.some(chosen.tolist())
        own = self.itself(some.shown_as(shown), draw)
        images = torch.cat((clean, own, moved))
        return Lesson(images, wanted.repeat(2, 1), len(clean), count, HARD)

    def _pairs(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw clean images, the same attacked, both [count, 3, H, W], and which they are."""
        odds = torch.tensor(self.weights)
        source = torch.multinomial(odds, count, replacement=True, generator=draw).tolist()
        place = torch.rand(count, generator=draw)
        part = (0.5 + torch.rand((count, 1, 1, 1), generator=draw)).clamp_max(1)
        pairs = [self.examples[s] for s in source]
        at = [int(p * len(e.origin)) for p, e in zip(place.tolist(), pairs, strict=True)]
        origin = torch.stack([e.origin[n] for e, n in zip(pairs, at, strict=True)])
        full = torch.stack([e.pixels[n] for e, n in zip(pairs, at, strict=True)]).float()
        base = self.images.pixels[origin].float()
        return base / 255, torch.round(base + part * (full - base)) / 255, origin


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
        return Lesson(torch.cat((clean, moved)), wanted, len(chosen), len(chosen))


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
            return Lesson(clean, self.soft[chosen], 0, 0)
        labels = self.images.labels[chosen]
        return Lesson(clean, functional.one_hot(labels, self.classes).float(), 0, 0)


def stream(seed: int, *parts: str | int) -> torch.Generator:
    """A generator of its own for each part of training, so that a resumed run draws the same."""
    return torch.Generator().manual_seed(stream_of("harden", seed, *parts) % 2**63)
