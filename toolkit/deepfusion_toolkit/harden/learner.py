"""The training loop: some members of every image, one step after the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from math import cos, pi

import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden.budget import restore
from deepfusion_toolkit.harden.detector import belongs
from deepfusion_toolkit.harden.images import stream
from deepfusion_toolkit.harden.lessons import Lesson, Teacher
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.surgery.graph import following_batches
from deepfusion_toolkit.surgery.members import spread

MEMBERS = 2
"""Members an image is shown to."""
BATCH = 32
"""Training images of a step."""
WARM = 50
"""Steps in which the learning rate rises, at most a tenth of all."""
DECAY = 1e-3
KEPT = 0.998
"""Share of the averaged weights that a step leaves, once there were enough steps."""
SETTLE = 60
"""Batches after which nothing is left of a batch norm's old statistics (momentum .1)."""


class Learner:
    """An eroded model in training; its weights are the base model's own.

    Batch norms follow the batches: frozen ones learn more slowly. A detector stays as it is.

    Attributes:
        model: the defence, with the sites and strengths that are trained.
        undefended: the same as it was before.
        weights: parameters, then buffers; what a checkpoint holds.
        averaged: the mean of these over the last steps, exponentially weighted (Polyak and
            Juditsky, 1992): it is judged and kept, because single steps go up and down.
        aside: which of these are a detector's and have no part in the classes.
    """

    def __init__(self, model: Defended, settings: Settings, images: int, classes: int) -> None:
        self.model, self.settings = model, settings
        self.undefended = deepcopy(model)
        self.images, self.classes = images, classes
        self.steps = -(-images // BATCH)
        (eroded,) = model.bases
        graph = eroded.graph_module
        self._live = spread(following_batches(graph, leaving=belongs))
        self.trained = [
            p for n, p in graph.named_parameters() if p.is_floating_point() and not belongs(n)
        ]
        self.weights = [*eroded.parameters(), *eroded.buffers()]
        self.averaged = [w.detach().clone() for w in self.weights]
        names = [n for n, _ in (*graph.named_parameters(), *graph.named_buffers())]
        self.aside = [*map(belongs, names)]
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
        for weight in self.trained:
            weight.requires_grad_(True)
        total = 0.0
        try:
            for at, chosen in enumerate(order.split(BATCH)):
                loss = self._step(number * self.steps + at, teacher, chosen, draw)
                total += self._descend(number * self.steps + at, loss)
                self._average(number * self.steps + at)
                advance(1)
        finally:
            for weight in self.trained:
                weight.requires_grad_(False)
        return total / self.steps

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
        for at in range(SETTLE):
            lesson = teacher.lesson(batches[at % len(batches)], draw)
            with torch.no_grad():
                self._look(lesson, stream_of("settle", at))

    def _look(self, lesson: Lesson, drawn: int) -> Tensor:
        """Logits [M * MEMBERS, C] of M images, image after image."""
        device = self.trained[0].device
        images = lesson.images.to(device, memory_format=torch.channels_last)
        rows = sample(
            self.model.sites, seed=self.settings.seed, stream=drawn, members=MEMBERS * len(images)
        )
        logits: Tensor = self._live(self.model.prepared(images), torch.from_numpy(rows).to(device))[
            0
        ]
        return logits

    def _step(self, step: int, teacher: Teacher, chosen: Tensor, draw: torch.Generator) -> Tensor:
        lesson = teacher.lesson(chosen, draw)
        logits = self._look(lesson, stream_of("harden", step))
        hot = self.settings.temperature if self.settings.method == "distillation" else 1.0
        wanted = lesson.wanted.to(logits.device).repeat_interleave(MEMBERS, 0)
        return functional.cross_entropy(logits / hot, wanted)

    def _average(self, step: int) -> None:
        share = max(1 - KEPT, 9 / (10 + step))
        with torch.no_grad():
            for mean, weight in zip(self.averaged, self.weights, strict=True):
                if mean.is_floating_point():
                    mean.lerp_(weight, share)
                else:
                    mean.copy_(weight)

    def _descend(self, step: int, loss: Tensor) -> float:
        if not torch.isfinite(loss):
            raise ModelError(
                f"hardening diverged at step {step} (loss {float(loss.detach())})", "lower --rate"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * _rate(step, self.steps * self.settings.epochs)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        return float(loss.detach())


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
