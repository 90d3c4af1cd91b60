"""Training from the first epoch or a checkpoint: held-out figures, best epoch, early stop."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from deepfusion_toolkit.augment import Turn
from deepfusion_toolkit.harden import checkpoint, sampling
from deepfusion_toolkit.harden.budget import restore
from deepfusion_toolkit.harden.checkpoint import Epoch, Identity, State
from deepfusion_toolkit.harden.images import Images
from deepfusion_toolkit.harden.itself import OWN_STEPS, PGD_STEPS, OnItself
from deepfusion_toolkit.harden.judge import Exam, examine
from deepfusion_toolkit.harden.learner import Learner, answers
from deepfusion_toolkit.harden.lessons import Adversarial, Distillation, Teacher, Transfer
from deepfusion_toolkit.harden.pool import Examples
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.report.terminal import progress

PATIENCE = 6
"""Epochs without a better one after which training stops."""
GOOD = 0.35
"""Mean cross-entropy of a detector that is good enough, in nats; tossing a coin has .69."""
LONGEST = 1 / 3
"""Share of the epochs after which hardening goes on with the detector as it is."""
ENOUGH = 10
"""Epochs from which on images are also shifted and attacked on the model itself: in five, which
learn known sources alone, both took more than they gave (make demo: attacks on itself left 39 % of
attacked images right instead of 59, shifts 164 of 300 instead of 170)."""
MEMBERS = 4
"""Members that held-out images are judged by after each epoch."""


def train(
    learner: Learner,
    images: Images,
    examples: Sequence[Examples],
    exam: Exam,
    turns: Sequence[Turn],
    least: float,
    path: Path,
    identity: Identity,
    begun: State | None,
) -> State:
    """Train until the epochs are over or nothing gets better; the model ends as it was last.

    Args:
        learner: the model in training.
        images: clean training images.
        examples: attacked ones, a source each; empty for methods without a pool.
        exam: held-out images; its sources are those of ``examples``, in order.
        turns: that images may be given.
        least: clean accuracy that is within the budget.
        path: of the checkpoint.
        identity: of this run.
        begun: what to go on from.

    Raises:
        ModelError: the loss is not finite.
        StorageError: the checkpoint cannot be written.
    """
    settings = learner.settings
    state = begun or State(learner.weights, {})
    if begun:
        restore(learner.weights, begun.weights)
        learner.optimiser.load_state_dict(begun.optimiser)
        state.weights = learner.weights
    total = settings.epochs * learner.steps
    with progress(f"hardening ({settings.method})", total) as advance:
        advance(len(state.epochs) * learner.steps)
        for number in range(len(state.epochs), settings.epochs):
            if stopped(state, settings):
                advance(total - number * learner.steps)
                break
            teacher = teacher_of(learner, images, examples, exam, turns, state)
            first = detector_first(state.epochs, settings)
            loss, unseen = learner.epoch(number, teacher, advance, detector_first=first)
            found = examine(learner.model, exam, (MEMBERS,), settings.seed)[MEMBERS]
            odds = teacher.weights if isinstance(teacher, Transfer) else ()
            epoch = Epoch(
                number + 1,
                loss,
                found,
                dict(zip(exam.attacked, odds, strict=False)),
                found.clean >= least,
                unseen,
            )
            state.epochs.append(epoch)
            if best(state.epochs) is epoch:
                state.best = [w.detach().cpu().clone() for w in learner.weights]
                state.best_number = epoch.number
            state.optimiser = learner.optimiser.state_dict()
            checkpoint.save(state, identity, path)
    return state


def best(epochs: Sequence[Epoch]) -> Epoch:
    """The worthiest epoch among those that keep the budget; among all if none does."""
    return max(epochs, key=lambda e: (e.kept, e.figures.worth, -e.number))


def stopped(state: State, settings: Settings) -> bool:
    """Whether the last epochs brought nothing better; those of the detector do not count."""
    first = sum(detector_first(state.epochs[:n], settings) for n in range(len(state.epochs)))
    return len(state.epochs) - max(state.best_number, first) >= PATIENCE


def short(settings: Settings) -> bool:
    """Whether there are too few epochs to learn more than known sources."""
    return settings.epochs < ENOUGH


def detector_first(epochs: Sequence[Epoch], settings: Settings) -> bool:
    """Whether the next epoch belongs to the detector: until it is good, but not for long."""
    if settings.method != "transfer" or len(epochs) >= settings.epochs * LONGEST:
        return False
    return all(epoch.unseen > GOOD for epoch in epochs)


def teacher_of(
    learner: Learner,
    images: Images,
    examples: Sequence[Examples],
    exam: Exam,
    turns: Sequence[Turn],
    state: State,
) -> Teacher:
    """What the next epoch is taught by."""
    settings, classes = learner.settings, learner.classes
    if settings.method == "adversarial":
        return Adversarial(images, OnItself(learner.model, settings, PGD_STEPS), turns, classes)
    if settings.method == "distillation":
        if len(state.epochs) >= settings.epochs // 2 and state.soft is None and state.epochs:
            state.soft = _softened(learner, images)
        return Distillation(images, state.soft, turns, classes)
    last = list(state.epochs[-1].figures.robust.values()) if state.epochs else [0.0] * len(examples)
    counts = [len(one.keys) for one in exam.attacked.values()]
    undefended = partial(answers, learner.undefended)
    known = detector_first(state.epochs, settings) or short(settings)
    itself = None if known else OnItself(learner.model, settings, OWN_STEPS)
    weights = sampling.weights(last, counts)
    return Transfer(images, examples, weights, turns, undefended, itself, classes)


def _softened(learner: Learner, images: Images) -> Tensor:
    """The model's probabilities [N, C] at the temperature, without erosion."""
    batches = images.pixels.split(128)
    return torch.cat(
        [answers(learner.model, b / 255, learner.settings.temperature) for b in batches]
    )
