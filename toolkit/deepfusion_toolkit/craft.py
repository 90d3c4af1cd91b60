"""Crafting a whole adversarial set: checks, batches, a journal to resume from, a manifest."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import torch

from deepfusion_edge.erosion import stream_of
from deepfusion_edge.errors import InputError, ModelError, UsageError
from deepfusion_toolkit import __version__
from deepfusion_toolkit.attacks import Settings, cost, prepare
from deepfusion_toolkit.batches import Made, Workshop, save, saved_as
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.engines import Engine, Local, Work, announced
from deepfusion_toolkit.jobs import CraftJob
from deepfusion_toolkit.journal import (
    JOURNAL,
    Head,
    SetManifest,
    begun_with,
    close_set,
    open_set,
)
from deepfusion_toolkit.models import Classifier, require_same_classes
from deepfusion_toolkit.names import DEEP_FUSION
from deepfusion_toolkit.plan import fingerprint
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.surgery import ErodedModel

BANK = 16
"""Images of the set that others may be mixed with."""


def targets_of(dataset: Dataset, classes: int, seed: int) -> tuple[Item, ...]:
    """Give every item a target class: the listed one, or one drawn from the seed and its name.

    Raises:
        UsageError: a listed target is the true class or no class of the model.
        ModelError: there is no other class.
    """
    if classes < 2:  # noqa: PLR2004
        raise ModelError("the model has one class", "a targeted attack needs two or more")
    items = []
    for item in dataset.items:
        target = item.target
        if target is None:
            away = 1 + stream_of("target", seed, item.file) % (classes - 1)
            target = (item.label + away) % classes
        if target == item.label or not 0 <= target < classes:
            raise UsageError(
                f"target class {target} of {item.file} is the true one or none of 0..{classes - 1}",
                "correct the column 'target' of labels.csv",
            )
        items.append(Item(item.file, item.label, target))
    return tuple(items)


def bank_of(dataset: Dataset, seed: int) -> tuple[Item, ...]:
    """Choose the images that others may be mixed with, by the seed alone."""
    order = sorted(dataset.items, key=lambda item: stream_of("bank", seed, item.file))
    return tuple(order[:BANK])


def craft(
    dataset: Dataset,
    models: Sequence[Classifier],
    out: Path,
    settings: Settings,
    *,
    name: str = DEEP_FUSION,
    batch: int = 16,
    resume: bool = False,
    device: str = "cpu",
    engine: Engine | None = None,
    threads: int | None = None,
) -> SetManifest:
    """Attack a data set on surrogates and save it with its manifest, in the data set's layout.

    Args:
        dataset: clean images with their labels.
        models: surrogates with the same classes in the same order.
        out: folder of the set, empty or new.
        settings: of the attack.
        name: of the attack, for the manifest.
        batch: images at once; halved, with a note on stderr, where memory ends.
        resume: go on with what an interrupted run of the same settings left in ``out``.
        device: of torch, where the surrogates run.
        engine: where the work is done; None: in this process. It decides nothing about the files,
            and a run may be resumed with another one.
        threads: of torch in each process, part of the head; None: those of the run that is
            resumed, or the engine's choice.

    Raises:
        UsageError: other processes cannot load a model that was not loaded from a SPEC.
        UnreachableError: too many workers were lost; what is finished stays and can be resumed.
        InputError: ``out`` holds something else, or an image cannot be read.
        ModelError: surrogates do not fit each other or the labels, or give no finite numbers.
        StorageError: the disk is full; what is finished stays and can be resumed.
    """
    require_same_classes(models, dataset.classes, folder.highest_label(dataset))
    _require_whole(dataset)
    chosen: Engine = engine or Local()
    surrogates = prepare(models, settings)
    bank = bank_of(dataset, settings.seed) if settings.mixes else ()
    begun = begun_with(out) if resume else None
    threads = threads or (begun.threads if begun else None) or chosen.threads
    head = head_of(dataset, models, surrogates, settings, name, batch, bank, threads)
    items = (
        targets_of(dataset, models[0].classes, settings.seed)
        if settings.targeted
        else tuple(Item(item.file, item.label) for item in dataset.items)
    )
    job = CraftJob.of(chosen, models, dataset, settings, batch, bank)
    done = open_set(dataset, out, head, items, resume)
    if done is None:
        return msgspec.json.decode((out / "manifest.json").read_bytes(), type=SetManifest)

    def here() -> Work[Sequence[Item], list[Made]]:
        for surrogate in surrogates:
            surrogate.to(device)
        return Workshop(dataset, surrogates, settings, batch, bank, device).craft

    rest = [*chunks(dataset, [i for i in items if i.file not in done], batch)]
    _say(announced(chosen, threads))
    results = chosen.run(job, rest, threads=threads, notify=_say, here=here)
    with (
        progress("crafting", len(items), done=len(done)) as advance,
        (out / JOURNAL).open("ab") as journal,
        closing(results),
    ):
        for _, finished in results:
            for made in finished:
                save(made, out)
                done[made.record.source] = made.record
                journal.write(msgspec.json.encode(made.record) + b"\n")
                journal.flush()
                advance(1)
    return close_set(dataset, out, head, [done[i.file] for i in items])


def chunks(dataset: Dataset, items: Sequence[Item], batch: int) -> Iterator[list[Item]]:
    """Batches of images of one size."""
    for group in folder.groups_by_size(dataset, items).values():
        for at in range(0, len(group), batch):
            yield group[at : at + batch]


def head_of(
    dataset: Dataset,
    models: Sequence[Classifier],
    surrogates: Sequence[ErodedModel],
    settings: Settings,
    name: str,
    batch: int,
    bank: Sequence[Item],
    threads: int,
) -> Head:
    """Collect what decides about the result."""
    return Head(
        version=__version__,
        torch=str(torch.__version__),
        attack=f"{name} (reconstruction)" if name == DEEP_FUSION else name,
        eps=settings.eps,
        passes_per_image=cost(settings, len(models)),
        settings=settings,
        seed=settings.seed,
        batch=batch,
        surrogates=[m.name for m in models],
        fingerprints=[fingerprint(m.core) for m in models],
        sites=[len(s.sites) for s in surrogates],
        taps=[",".join(s.tapped) for s in surrogates],
        bank=[item.file for item in bank],
        images=len(dataset),
        threads=threads,
    )


def _say(line: str) -> None:
    sys.stderr.write(f"craft: {line}\n")


def _require_whole(dataset: Dataset) -> None:
    """Read every image and name every file before the first one is attacked."""
    names: dict[str, str] = {}
    with progress("reading images", len(dataset)) as advance:
        for item in dataset.items:
            dataset.read(item)
            other = names.setdefault(saved_as(item), item.file)
            if other != item.file:
                raise InputError(
                    f"{dataset.root}: {other} and {item.file} would both be saved as "
                    f"{saved_as(item)}",
                    "rename one of them",
                )
            advance(1)
