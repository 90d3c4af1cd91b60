"""The training loop: four members of every image, one step after the other."""

from collections.abc import Callable
from copy import deepcopy
from math import cos, pi

import torch
from torch import Tensor, nn

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden.lessons import Lesson, Teacher, stream
from deepfusion_toolkit.harden.loss import Loss, loss_of
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.surgery import ErodedModel
from deepfusion_toolkit.surgery.graph import following_batches
from deepfusion_toolkit.surgery.members import spread

MEMBERS = 4
"""Members an image is shown to: two have a variance, of four it is less a matter of chance."""
BATCH = 16
"""Clean images of a step, and as many attacked ones."""
WARM = 50
"""Steps in which the learning rate rises, at most a tenth of all."""
DECAY = 1e-3
SETTLE = 60
"""Batches after which nothing is left of a batch norm's old statistics (momentum .1)."""


class Learner:
    """An eroded model in training; its weights are the base model's own.

    Batch norms follow the batches, a third of which is attacked: frozen ones learn more slowly.

    A linear detector on the features is trained beside and thrown away: its gradient tells the
    network what an attack looks like, before members can differ about it.

    Attributes:
        model: the defence, with the sites and strengths that are trained.
        undefended: the same as it was before.
        weights: parameters, then buffers, then the detector's; what a checkpoint holds.
    """

    def __init__(self, model: Defended, settings: Settings, images: int, classes: int) -> None:
        self.model, self.settings = model, settings
        self.undefended = deepcopy(model)
        self.images, self.classes = images, classes
        self.steps = -(-images // BATCH)
        (eroded,) = model.bases
        self._live = spread(following_batches(eroded.graph_module))
        self._detector = nn.Linear(_width(eroded), 1)
        heads = list(self._detector.requires_grad_(False).parameters())
        for weight in heads:
            nn.init.zeros_(weight)
        self.trained = [p for p in eroded.parameters() if p.is_floating_point()] + heads
        self.weights = [*eroded.parameters(), *eroded.buffers(), *heads]
        self.optimiser = torch.optim.AdamW(self.trained, lr=settings.rate, weight_decay=DECAY)

    def epoch(
        self, number: int, teacher: Teacher, advance: Callable[[int], None], *, detector_first: bool
    ) -> tuple[float, float]:
        """Show every image once; return the mean loss, and the detector's share of it in nats.

        Args:
            number: of the epoch, from 0; every draw depends on it and the seed.
            teacher: makes the batches.
            advance: told of every finished step.
            detector_first: see :meth:`Loss.total`.

        Raises:
            ModelError: the loss is not finite.
        """
        draw = stream(self.settings.seed, "epoch", number)
        order = torch.randperm(self.images, generator=draw)
        for weight in self.trained:
            weight.requires_grad_(True)
        total = unseen = 0.0
        try:
            for at, chosen in enumerate(order.split(BATCH)):
                loss = self._step(number * self.steps + at, teacher, chosen, draw)
                whole = loss.total(detector_first=detector_first)
                total += self._descend(number * self.steps + at, whole)
                unseen += float(loss.detected.detach())
                advance(1)
        finally:
            for weight in self.trained:
                weight.requires_grad_(False)
        return total / self.steps, unseen / self.steps

    def settle(self, teacher: Teacher) -> None:
        """Let batch norms find their statistics for weights that were mixed, not trained."""
        draw = stream(self.settings.seed, "settle")
        batches = torch.randperm(self.images, generator=draw).split(BATCH)
        for at in range(SETTLE):
            lesson = teacher.lesson(batches[at % len(batches)], draw)
            with torch.no_grad():
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

    def _step(self, step: int, teacher: Teacher, chosen: Tensor, draw: torch.Generator) -> Loss:
        lesson = teacher.lesson(chosen, draw)
        logits, features = self._look(lesson, stream_of("harden", step))
        return loss_of(
            logits,
            features,
            self._detector(features).squeeze(-1),
            lesson.wanted.to(logits.device),
            lesson.attacked,
            lesson.scored,
            self.settings.temperature if self.settings.method == "distillation" else 1.0,
            lesson.weight,
        )

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


def _width(eroded: ErodedModel) -> int:
    """Return how many features the model has."""
    image, factors = torch.full((1, 3, *eroded.size), 0.5), torch.ones(1, eroded.width)
    with torch.no_grad():
        return int(eroded(image, factors).features.shape[1])


def _rate(step: int, steps: int) -> float:
    """Rises, then falls as a cosine; step of so many -> share of the rate."""
    rise = max(1.0, min(WARM, steps / 10))
    return min(1.0, (step + 1) / rise) * (1 + cos(pi * step / steps)) / 2
