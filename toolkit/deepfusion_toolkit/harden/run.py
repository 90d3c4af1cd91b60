"""Hardening from beginning to end: check, craft, train, search within the budget, write."""

from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch

from deepfusion_edge.erosion import stream_of
from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.augment import SHIFTS, TURNS, harmless_turns
from deepfusion_toolkit.calibrate import require_images
from deepfusion_toolkit.data.folder import Dataset, highest_label
from deepfusion_toolkit.files import replacing
from deepfusion_toolkit.harden import checkpoint
from deepfusion_toolkit.harden.budget import Budget, Ways, choose
from deepfusion_toolkit.harden.checkpoint import Epoch, State
from deepfusion_toolkit.harden.detector import detector_of, replace_detector, watched
from deepfusion_toolkit.harden.identity import identity_of
from deepfusion_toolkit.harden.images import Images, images_of
from deepfusion_toolkit.harden.judge import Exam
from deepfusion_toolkit.harden.learner import Learner
from deepfusion_toolkit.harden.noticing import Round, teach
from deepfusion_toolkit.harden.places import tails
from deepfusion_toolkit.harden.pool import Examples, Workshop
from deepfusion_toolkit.harden.result import Result, Sample, plan_of
from deepfusion_toolkit.harden.search import Grid
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.harden.training import teacher_of, train
from deepfusion_toolkit.label_order import require_fitting_labels
from deepfusion_toolkit.models import Classifier, require_same_classes, save
from deepfusion_toolkit.policy import possible
from deepfusion_toolkit.surgery import ErodedModel
from deepfusion_toolkit.training import accuracy, split

EXAM = 192
"""Held-out clean images that an epoch or a plan of the grid is judged on."""
EXAM_EACH = 24
"""Held-out attacked images of each source."""
CHECKPOINT, POOL = "checkpoint.pt", "pool"
"""What the working folder holds."""


def harden(
    model: Classifier,
    dataset: Dataset,
    surrogates: Sequence[Classifier],
    out: Path,
    plan_out: Path,
    settings: Settings,
    *,
    work: Path | None = None,
    resume: bool = False,
    devices: Sequence[str] = ("cpu",),
) -> Result:
    """Write a hardened model and its erosion plan.

    Args:
        model: what is hardened; its weights change.
        dataset: training images; a share of them is held out.
        surrogates: public models; without any, methods other than "transfer" are judged on
            examples of the model itself.
        out: model file to write.
        plan_out: plan to write; both are written or none.
        settings: see ``Settings``.
        work: folder of the pool and the checkpoint; None: beside ``out``, with suffix ``.work``.
        resume: go on with the checkpoint in ``work``, if there is one.
        devices: of torch, where examples are crafted and the model is trained, together if they are
            several.

    Raises:
        InputError: too few images to keep back or to calibrate on, one class, or a damaged
            checkpoint.
        UsageError: a file to write is a folder, the checkpoint is of other settings, or no plan can
            be paid.
        ModelError: data, model and surrogates do not fit, there is nothing to erode, training
            diverged, or nothing keeps the clean accuracy. Nothing is written then.
        StorageError: the disk is full; what is finished stays in ``work``.
    """
    for place in (out, plan_out):
        if place.is_dir():
            raise UsageError(f"{place} is a folder", "give the name of a file")
    require_same_classes([model, *surrogates], dataset.classes, highest_label(dataset))
    require_fitting_labels(surrogates, dataset, settings.seed)
    doubts = _grey_box(model, surrogates)
    training = settings.epochs > 0
    network = 1.0
    if training and settings.method != "distillation":
        model, network = watched(model, settings.seed)
    grid = Grid.of(model, tails(model, settings.shared), settings, network)
    kept, held_out = split(dataset) if training else (dataset, dataset)
    if settings.false_positive_rate:
        require_images(len(held_out), settings.false_positive_rate)
    held = images_of(held_out, model.size)
    exam = Exam(_drawn(held, settings.seed), {})
    budget = Budget(
        accuracy(model, held.pixels, held.labels),
        accuracy(model, exam.clean.pixels, exam.clean.labels),
        settings.max_clean_drop,
    )
    lessons = None
    if training:
        images = images_of(kept, model.size)
        lessons = _train(
            grid, model, surrogates, images, held, exam, budget, settings,
            work or out.with_suffix(".work"), resume, devices,
        )  # fmt: skip
        exam = lessons.exam
    chosen = choose(grid, held_out, exam, budget, settings.seed, lessons.ways if lessons else None)
    _require_shared_weights(model, chosen.point.model.bases[0])
    found = possible(
        chosen.point.model,
        held_out,
        chosen.judged,
        members=chosen.point.members,
        work=chosen.point.work._replace(eroded=0.0),
        rate=settings.false_positive_rate,
        seed=settings.seed,
        least=budget.least,
    )
    plan = plan_of(
        model,
        dataset.classes or [str(n) for n in range(model.classes)],
        chosen,
        budget,
        settings,
        epochs=lessons.epochs if lessons else (),
        surrogates=[s.name for s in surrogates],
        accuracy=accuracy(model, held.pixels, held.labels),
        found=found,
    )
    with replacing(plan_out) as partial:  # the plan is whole when the model appears, or neither is
        plans.write(plan, partial)
        save(model.core, model.size, out)
    return Result(
        plan,
        lessons.epochs if lessons else (),
        lessons.rounds if lessons else (),
        chosen.front,
        chosen.point,
        lessons.samples if lessons else (),
        [*doubts, *_mixed(chosen.mix, lessons is not None), *found.doubts],
    )


class _Trained(NamedTuple):
    ways: Ways
    exam: Exam
    epochs: Sequence[Epoch]
    rounds: Sequence[Round]
    samples: Sequence[Sample]


def _train(
    grid: Grid,
    model: Classifier,
    surrogates: Sequence[Classifier],
    images: Images,
    held: Images,
    exam: Exam,
    budget: Budget,
    settings: Settings,
    work: Path,
    resume: bool,
    devices: Sequence[str],
) -> _Trained:
    """Craft the pool and train; the exam gets held-out examples."""
    device = devices[0]
    identity = identity_of(model, surrogates, images, held, settings)
    begun = checkpoint.load(work / CHECKPOINT, identity) if resume else None
    judge = partial(accuracy, model, labels=held.labels)
    turns = harmless_turns(judge, held.pixels, settings.max_clean_drop, (*TURNS, *SHIFTS))
    workshop = Workshop(surrogates or [model], settings, work / POOL, devices)
    examples: list[Examples] = []
    if settings.method != "distillation":
        each = ceil(settings.crafted / len(workshop.sources))
        examples = workshop.craft(images, each, "training examples")
    asked = workshop.craft(held, EXAM_EACH, "held-out examples")
    samples, attacked = [], {}
    for source, made in zip(workshop.sources, asked, strict=True):
        origin = held.some(made.origin.tolist())
        attacked[source.name] = origin._replace(pixels=made.pixels)
        samples.append(Sample(source.name, int(origin.labels[0]), origin.pixels[0], made.pixels[0]))
    exam = exam._replace(attacked=attacked)
    defended = grid.places[0][0]
    defended.preprocess.to(device)
    rounds = begun.rounds if begun else []
    if examples and not begun:
        detector = detector_of(model)
        rounds = teach(detector, defended.prepared, images, examples, exam, settings.seed, device)
        replace_detector(model, detector)
    learner = Learner(defended, settings, len(images.keys), model.classes, devices)
    first = [w.detach().clone() for w in learner.weights]
    learner.move(device)
    state = begun or State(learner.weights, learner.averaged, {}, rounds)
    state = train(
        learner, images, examples, exam, turns, budget.least_exam,
        work / CHECKPOINT, identity, state,
    )  # fmt: skip
    learner.move("cpu")

    def settle() -> None:
        learner.settle(teacher_of(learner, images, examples, exam, turns, state))

    # a resumed run's detector was taught in the run before
    first = [b if own else f for f, b, own in zip(first, state.best, learner.aside, strict=True)]
    ways = Ways(learner.weights, first, state.best, settle)
    return _Trained(ways, exam, state.epochs, state.rounds, samples)


def _drawn(images: Images, seed: int) -> Images:
    """As many of the held-out images as an epoch is judged on, by the seed and their names."""
    order = sorted(range(len(images.keys)), key=lambda n: stream_of("exam", seed, images.keys[n]))
    return images.some(order[:EXAM])


def _grey_box(model: Classifier, surrogates: Sequence[Classifier]) -> list[str]:
    own = plans.fingerprint(model.core)
    return [
        f"surrogate {s.name} has the weights of the model itself: this is grey-box, and figures "
        "on its examples say nothing about an attacker who does not have the model"
        for s in surrogates
        if plans.fingerprint(s.core) == own
    ]


def _mixed(mix: float, trained: bool) -> list[str]:
    if not trained or mix == 1:
        return []
    said = (
        f"the clean-accuracy budget is kept with {mix:.0%} of the hardened weights, the rest is "
        "the undefended model's (WiSE-FT): robustness is less than training reached"
    )
    return [said]


def _require_shared_weights(model: Classifier, eroded: ErodedModel) -> None:
    """What was trained must be what is saved."""
    image = torch.full((1, 3, *model.size), 0.5)
    with torch.no_grad():
        apart = (model(image) - eroded(image, torch.ones(1, eroded.width)).logits).abs().max()
    if not apart < 1e-3:  # noqa: PLR2004 - float32 noise is far below; NaN fails too
        raise ModelError(
            f"hardened weights of {model.name} did not reach the model (apart by {apart:g})",
            "report this with the model's origin",
        )
