"""The training loop: four members of every image, one step after the other."""

from collections.abc import Callable
from math import cos, pi

import torch
from torch import Tensor

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden.lessons import Lesson, Teacher, stream
from deepfusion_toolkit.harden.loss import loss_of
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.surgery.graph import following_batches
from deepfusion_toolkit.surgery.members import spread

MEMBERS = 4
"""Members an image is shown to: two have a variance, of four it is less a matter of chance."""
BATCH = 16
"""Clean images of a step, and as many attacked ones."""
WARM = 0.1
"""Share of the steps in which the learning rate rises."""
DECAY = 1e-3
SETTLE = 60
"""Batches after which nothing is left of a batch norm's old statistics (momentum .1)."""


class Learner:
    """An eroded model in training; its weights are the base model's own.

    Batch norms follow the batches, half of which are attacked: frozen ones learn more slowly.

    Attributes:
        model: the defence, with the sites and strengths that are trained.
        weights: parameters, then buffers; what a checkpoint holds.
    """

    def __init__(self, model: Defended, settings: Settings, images: int, classes: int) -> None:
        self.model, self.settings = model, settings
        self.images, self.classes = images, classes
        self.steps = -(-images // BATCH)
        (eroded,) = model.bases
        self._live = spread(following_batches(eroded.graph_module))
        self.trained = [p for p in eroded.parameters() if p.is_floating_point()]
        self.weights = [*eroded.parameters(), *eroded.buffers()]
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
                total += self._step(number * self.steps + at, teacher, chosen, draw)
                advance(1)
        finally:
            for weight in self.trained:
                weight.requires_grad_(False)
        return total / self.steps

    def settle(self, teacher: Teacher) -> None:
        """Let batch norms find their statistics for weights that were mixed, not trained."""
        draw = stream(self.settings.seed, "settle")
        batches = torch.randperm(self.images, generator=draw).split(BATCH)
        with torch.no_grad():
            for at in range(SETTLE):
                lesson = teacher.lesson(batches[at % len(batches)], draw)
                self._look(lesson, stream_of("settle", at))

    def _look(self, lesson: Lesson, drawn: int) -> tuple[Tensor, Tensor]:
        """Logits and features [MEMBERS, M, ...] of M images."""
        device = self.trained[0].device
        images = lesson.images.to(device, memory_format=torch.channels_last)
        count = len(images)
        rows = sample(
            self.model.sites, seed=self.settings.seed, stream=drawn, members=MEMBERS * count
        )
        shown = self.model.prepared(images)
        logits, features = self._live(shown, torch.from_numpy(rows).to(device))
        return (
            logits.view(count, MEMBERS, -1).transpose(0, 1),
            features.view(count, MEMBERS, -1).transpose(0, 1),
        )

    def _step(self, step: int, teacher: Teacher, chosen: Tensor, draw: torch.Generator) -> float:
        lesson = teacher.lesson(chosen, draw)
        logits, features = self._look(lesson, stream_of("harden", step))
        loss = loss_of(
            logits,
            features,
            lesson.wanted.to(logits.device),
            lesson.attacked,
            self.settings.temperature if self.settings.method == "distillation" else 1.0,
        )
        if not torch.isfinite(loss):
            raise ModelError(
                f"hardening diverged at step {step} (loss {float(loss.detach())})", "lower --rate"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * _rate(step / (self.steps * self.settings.epochs))
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        return float(loss.detach())


def _rate(part: float) -> float:
    """Rises, then falls as a cosine; part of all steps in [0, 1) -> share of the rate."""
    return min(1.0, (part + 1e-3) / WARM) * (1 + cos(pi * part)) / 2
