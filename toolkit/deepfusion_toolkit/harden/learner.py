"""The training loop: some members of every image, one step after the other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import cos, isfinite, pi
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden.budget import restore
from deepfusion_toolkit.harden.copies import (
    Copy,
    copies_of,
    follow,
    gather,
    parted,
    side_by_side,
)
from deepfusion_toolkit.harden.detector import belongs
from deepfusion_toolkit.harden.images import stream
from deepfusion_toolkit.harden.lessons import Lesson, Teacher
from deepfusion_toolkit.harden.settings import Settings

MEMBERS = 2
"""Members an image is shown to."""
BATCH = 32
"""Training images of a step."""
WARM = 50
"""Steps in which the learning rate rises, at most a tenth of all."""
DECAY = 0.05
"""Of the weights, apart from the gradient (Loshchilov and Hutter, ICLR 2019). With a fiftieth of it
few images are known by heart in the end: accuracy on attacked others rises and then falls again."""
KEPT = 0.998
"""Share of the averaged weights that a step leaves, once there were enough steps."""
SETTLE = 60
"""Batches after which nothing is left of a batch norm's old statistics (momentum .1)."""


class _Part(NamedTuple):
    """Some of a batch: a ``Lesson``, factors [M, MEMBERS, F], share of the batch in (0, 1]."""

    images: Tensor
    wanted: Tensor
    factors: Tensor
    share: float


class Learner:
    """An eroded model in training; its weights are the base model's own.

    Batch norms follow the batches: frozen ones learn more slowly. A detector stays as it is.

    Attributes:
        copies: the defence, with the sites and strengths that are trained, on the first device, and
            copies of it on the others.
        weights: the first one's parameters, then buffers; what a checkpoint holds.
        averaged: the mean of these over the last steps, exponentially weighted (Polyak and
            Juditsky, 1992): it is judged and kept, because single steps go up and down.
        aside: which of these are a detector's and have no part in the classes.
    """

    def __init__(
        self,
        model: Defended,
        settings: Settings,
        images: int,
        classes: int,
        devices: Sequence[str] = ("cpu",),
    ) -> None:
        self.settings = settings
        self.sites, self.images, self.classes = model.sites, images, classes
        self.steps = -(-images // BATCH)
        self.copies = copies_of(model, devices)
        self.first = self.copies[0]
        self.trained, self.weights = self.first.trained, self.first.weights
        self.averaged = [w.detach().clone() for w in self.weights]
        self.aside = [*map(belongs, self.first.names)]
        self.optimiser = torch.optim.AdamW(self.trained, lr=settings.rate, weight_decay=DECAY)

    def epoch(self, number: int, teacher: Teacher, advance: Callable[[int], None]) -> float:
        """Show every image once; return the mean loss.

        Args:
            number: of the epoch, from 0; every draw depends on it and the seed.
            teacher: makes the batches.
            advance: told of every finished step.

        Raises:
            ModelError: the loss is not finite.
        """
        draw = stream(self.settings.seed, "epoch", number)
        order = torch.randperm(self.images, generator=draw)
        trained = [weight for copy in self.copies for weight in copy.trained]
        for weight in trained:
            weight.requires_grad_(True)
        total = 0.0
        try:
            for at, chosen in enumerate(order.split(BATCH)):
                total += self._step(number * self.steps + at, teacher, chosen, draw)
                self._average(number * self.steps + at)
                advance(1)
        finally:
            for weight in trained:
                weight.requires_grad_(False)
        return total / self.steps

    def move(self, device: str) -> None:
        """Move the first copy, and the averaged weights beside it."""
        self.first.move(device)
        for mean in self.averaged:
            mean.data = mean.data.to(device)

    @contextmanager
    def as_averaged(self) -> Iterator[None]:
        """Let the model have the averaged weights for a while."""
        own = [w.detach().clone() for w in self.weights]
        restore(self.weights, self.averaged)
        try:
            yield
        finally:
            restore(self.weights, own)

    def settle(self, teacher: Teacher) -> None:
        """Let batch norms find their statistics for weights that were mixed, not trained."""
        draw = stream(self.settings.seed, "settle")
        batches = torch.randperm(self.images, generator=draw).split(BATCH)
        follow(self.copies)
        for at in range(SETTLE):
            lesson = teacher.lesson(batches[at % len(batches)], draw)
            (part,) = self._parts(lesson, stream_of("settle", at), 1)
            with torch.no_grad():
                self._loss(self.first, part)

    def _parts(self, lesson: Lesson, drawn: int, count: int) -> list[_Part]:
        """A batch in so many parts, each image with factors of its own."""
        rows = sample(
            self.sites, seed=self.settings.seed, stream=drawn, members=MEMBERS * len(lesson.images)
        )
        factors = torch.from_numpy(rows).unflatten(0, (-1, MEMBERS))
        pieces = (parted(t, count) for t in (lesson.images, lesson.wanted, factors))
        return [
            _Part(i, w, f, len(i) / len(rows) * MEMBERS) for i, w, f in zip(*pieces, strict=True)
        ]

    def _loss(self, copy: Copy, part: _Part) -> Tensor:
        """What a part has in the batch's mean loss."""
        images = part.images.to(copy.device, memory_format=torch.channels_last)
        factors = part.factors.flatten(0, 1).to(copy.device)
        logits = copy.live(copy.model.prepared(images), factors)[0]
        hot = self.settings.temperature if self.settings.method == "distillation" else 1.0
        wanted = part.wanted.to(copy.device).repeat_interleave(MEMBERS, 0)
        return functional.cross_entropy(logits / hot, wanted) * part.share

    def _step(self, step: int, teacher: Teacher, chosen: Tensor, draw: torch.Generator) -> float:
        def descend(copy: Copy, part: _Part) -> float:
            loss = self._loss(copy, part)
            loss.backward()
            return float(loss.detach())

        follow(self.copies)
        lesson = teacher.lesson(chosen, draw)
        self.optimiser.zero_grad()
        parts = self._parts(lesson, stream_of("harden", step), len(self.copies))
        loss = sum(side_by_side(descend, self.copies, parts))
        if not isfinite(loss):
            raise ModelError(f"hardening diverged at step {step} (loss {loss})", "lower --rate")
        gather(self.copies)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * _rate(step, self.steps * self.settings.epochs)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        return loss

    def _average(self, step: int) -> None:
        share = max(1 - KEPT, 9 / (10 + step))
        with torch.no_grad():
            for mean, weight in zip(self.averaged, self.weights, strict=True):
                if mean.is_floating_point():
                    mean.lerp_(weight, share)
                else:
                    mean.copy_(weight)


def answers(model: Defended, images: Tensor, temperature: float = 1.0) -> Tensor:
    """Probabilities [N, C] of a model without erosion for images [N, 3, H, W] in [0, 1]."""
    device = next(model.parameters()).device
    with torch.no_grad():
        ones = torch.ones(len(images), *model.widths, device=device)
        (seen,) = model.look(model.prepared(images.to(device)), ones)
        return (seen.logits / temperature).softmax(1).cpu()


def _rate(step: int, steps: int) -> float:
    """Rises, then falls as a cosine; step of so many -> share of the rate."""
    rise = max(1.0, min(WARM, steps / 10))
    return min(1.0, (step + 1) / rise) * (1 + cos(pi * step / steps)) / 2
