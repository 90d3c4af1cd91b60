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
from deepfusion_toolkit.harden.lessons import (
    Adversarial,
    Distillation,
    Known,
    Teacher,
    Transfer,
)
from deepfusion_toolkit.harden.pool import Examples
from deepfusion_toolkit.report.terminal import progress

PATIENCE = 10
"""Epochs without a better one after which training stops."""
ENOUGH = 10
"""Epochs from which on classes are learned from attacks on the model itself. In fewer that costs
more clean accuracy than any budget has (make demo, five epochs: nothing but the undefended weights
kept it), and examples of known sources are learned from instead."""
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
    state: State,
) -> State:
    """Train until the epochs are over or nothing gets better; the model ends as it was last.

    Args:
        learner: the model in training.
        images: clean training images.
        examples: of the pool, a source each.
        exam: held-out images; its sources are those of ``examples``, in order.
        turns: that images may be given.
        least: clean accuracy that is within the budget.
        path: of the checkpoint.
        identity: of this run.
        state: what to go on from; it has no epochs at the beginning.

    Raises:
        ModelError: the loss is not finite.
        StorageError: the checkpoint cannot be written.
    """
    settings = learner.settings
    if state.epochs:
        restore(learner.weights, state.weights)
        restore(learner.averaged, state.averaged)
        learner.optimiser.load_state_dict(state.optimiser)
        state.weights, state.averaged = learner.weights, learner.averaged
    total = settings.epochs * learner.steps
    done = len(state.epochs) * learner.steps
    with progress(f"hardening ({settings.method})", total, done=done) as advance:
        for number in range(len(state.epochs), settings.epochs):
            if stopped(state):
                advance(total - number * learner.steps)
                break
            teacher = teacher_of(learner, images, examples, exam, turns, state)
            loss = learner.epoch(number, teacher, advance)
            with learner.as_averaged():
                found = examine(learner.first.model, exam, (MEMBERS,), settings.seed)[MEMBERS]
            epoch = Epoch(number + 1, loss, found, found.clean >= least)
            state.epochs.append(epoch)
            if best(state.epochs) is epoch:
                state.best = [w.detach().cpu().clone() for w in learner.averaged]
                state.best_number = epoch.number
            state.optimiser = learner.optimiser.state_dict()
            checkpoint.save(state, identity, path)
    return state


def best(epochs: Sequence[Epoch]) -> Epoch:
    """The worthiest epoch among those that keep the budget; among all if none does."""
    return max(epochs, key=lambda e: (e.kept, e.figures.worth, -e.number))


def stopped(state: State) -> bool:
    """Whether the last epochs brought nothing better."""
    return len(state.epochs) - state.best_number >= PATIENCE


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
        return Adversarial(images, OnItself(learner.copies, settings, PGD_STEPS), turns, classes)
    if settings.method == "distillation":
        if len(state.epochs) >= settings.epochs // 2 and state.soft is None and state.epochs:
            state.soft = _softened(learner, images)
        return Distillation(images, state.soft, turns, classes)
    undefended = partial(answers, learner.first.undefended)
    if settings.epochs < ENOUGH:
        right = [0.0] * len(examples)
        if state.epochs:
            right = list(state.epochs[-1].figures.robust.values())
        odds = sampling.weights(right, [len(one.keys) for one in exam.attacked.values()])
        return Known(images, examples, odds, turns, undefended)
    itself = OnItself(learner.copies, settings, OWN_STEPS, undefended=True)
    return Transfer(images, itself, turns, undefended)


def _softened(learner: Learner, images: Images) -> Tensor:
    """The model's probabilities [N, C] at the temperature, without erosion."""
    batches = images.pixels.split(128)
    return torch.cat(
        [answers(learner.first.model, b / 255, learner.settings.temperature) for b in batches]
    )
