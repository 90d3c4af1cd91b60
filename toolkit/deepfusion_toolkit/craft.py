"""Crafting a whole adversarial set: batches, saved images, a journal to resume from, a manifest."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copyfileobj
from typing import Literal

import msgspec
import torch
from PIL import Image

from deepfusion_edge.erosion import stream_of
from deepfusion_edge.errors import InputError, ModelError, UsageError
from deepfusion_toolkit import __version__
from deepfusion_toolkit.attacks import Settings, deep_fusion, quantise
from deepfusion_toolkit.attacks.surrogates import prepare
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.files import replacing, sha256_of, write_bytes
from deepfusion_toolkit.models import Classifier, require_same_classes
from deepfusion_toolkit.plan import fingerprint
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.surgery import ErodedModel

MANIFEST, JOURNAL = "manifest.json", "journal.jsonl"


class Crafted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image of the set; ``linf`` is measured on the saved file, in units of 1/255."""

    file: str
    source: str
    label: int
    target: int | None
    linf: int
    clean_sha256: str
    sha256: str


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides about the result; a resumed run must have the same."""

    version: str
    torch: str
    attack: str
    eps: float
    steps: int
    passes_per_image: int
    decay: float
    feature_weight: float
    targeted: bool
    seed: int
    batch: int
    surrogates: list[str]
    fingerprints: list[str]
    sites: list[int]
    taps: list[str]
    images: int


class SetManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json`` of an adversarial set, schema 1."""

    schema: Literal[1]
    head: Head
    classes: list[str] | None
    images: list[Crafted]


def load_attacked(path: Path) -> Dataset:
    """Load a set to judge; the target classes of a set that ``craft`` made come from its manifest.

    Raises:
        InputError: see ``folder.load``.
    """
    dataset = folder.load(path)
    manifest = path / MANIFEST
    if dataset.layout != "folders" or not manifest.is_file():
        return dataset
    try:
        made = msgspec.json.decode(manifest.read_bytes(), type=SetManifest)
    except (msgspec.DecodeError, RecursionError):
        return dataset  # some other tool's manifest
    targets = {crafted.file: crafted.target for crafted in made.images}
    items = tuple(Item(i.file, i.label, targets.get(i.file)) for i in dataset.items)
    return replace(dataset, items=items)


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


def craft(
    dataset: Dataset,
    models: Sequence[Classifier],
    out: Path,
    settings: Settings,
    *,
    batch: int = 16,
    resume: bool = False,
) -> SetManifest:
    """Attack a data set on surrogates and save it with its manifest, in the data set's layout.

    Raises:
        InputError: ``out`` holds something else, or an image cannot be read.
        ModelError: surrogates do not fit each other or the labels.
    """
    require_same_classes(models, dataset.classes, folder.highest_label(dataset))
    _require_whole(dataset)
    surrogates = prepare(models, tapped=settings.feature_weight > 0)
    head = _head(dataset, models, surrogates, settings, batch)
    items = (
        targets_of(dataset, models[0].classes, settings.seed)
        if settings.targeted
        else tuple(Item(item.file, item.label) for item in dataset.items)
    )
    done = _open(dataset, out, head, items, resume)
    if done is None:
        return msgspec.json.decode((out / MANIFEST).read_bytes(), type=SetManifest)
    with progress("crafting", len(items)) as advance:
        advance(len(done))
        with (out / JOURNAL).open("ab") as journal:
            for chunk in _chunks(dataset, [i for i in items if i.file not in done], batch):
                for crafted in _attack(dataset, chunk, surrogates, out, settings, batch):
                    done[crafted.source] = crafted
                    journal.write(msgspec.json.encode(crafted) + b"\n")
                    journal.flush()
                    advance(1)
    if dataset.layout == "labels.csv":
        rows = [
            f"{done[i.file].file},{i.label}" + (f",{i.target}" if i.target is not None else "")
            for i in items
        ]
        title = "file,label,target" if items[0].target is not None else "file,label"
        write_bytes(out / folder.LABELS, "\n".join([title, *rows, ""]).encode())
    classes = list(dataset.classes) if dataset.classes else None
    manifest = SetManifest(1, head, classes, [done[i.file] for i in items])
    write_bytes(
        out / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    )
    (out / JOURNAL).unlink()
    return manifest


def _require_whole(dataset: Dataset) -> None:
    """Read every image and name every file before the first one is attacked."""
    names: dict[str, str] = {}
    with progress("reading images", len(dataset)) as advance:
        for item in dataset.items:
            dataset.read(item)
            other = names.setdefault(_saved_as(item), item.file)
            if other != item.file:
                raise InputError(
                    f"{dataset.root}: {other} and {item.file} would both be saved as "
                    f"{_saved_as(item)}",
                    "rename one of them",
                )
            advance(1)


def _saved_as(item: Item) -> str:
    return str(Path(item.file).with_suffix(".png"))


def _head(
    dataset: Dataset,
    models: Sequence[Classifier],
    surrogates: Sequence[ErodedModel],
    settings: Settings,
    batch: int,
) -> Head:
    return Head(
        version=__version__,
        torch=str(torch.__version__),
        attack="deep-fusion (reconstruction)",
        eps=settings.eps,
        steps=settings.steps,
        passes_per_image=settings.steps * len(models),
        decay=settings.decay,
        feature_weight=settings.feature_weight,
        targeted=settings.targeted,
        seed=settings.seed,
        batch=batch,
        surrogates=[m.name for m in models],
        fingerprints=[fingerprint(m.core) for m in models],
        sites=[len(s.sites) for s in surrogates],
        taps=[",".join(s.tapped) for s in surrogates],
        images=len(dataset),
    )


def _open(
    dataset: Dataset, out: Path, head: Head, items: Sequence[Item], resume: bool
) -> dict[str, Crafted] | None:
    """Start or continue a set; None if it is complete."""
    try:
        return _opened(dataset, out, head, items, resume)
    except msgspec.DecodeError as error:
        raise InputError(
            f"{out} holds a damaged manifest or journal ({error})", "choose another --out"
        ) from error


def _opened(
    dataset: Dataset, out: Path, head: Head, items: Sequence[Item], resume: bool
) -> dict[str, Crafted] | None:
    wanted = msgspec.json.encode(head)
    started = out / JOURNAL
    if (out / MANIFEST).is_file() and resume:
        there = msgspec.json.decode((out / MANIFEST).read_bytes(), type=SetManifest)
        if there.head != head or [c.source for c in there.images] != [i.file for i in items]:
            raise InputError(f"{out} holds a set with other settings", "choose another --out")
        return None
    if started.is_file() and resume:
        first, *lines = started.read_bytes().split(b"\n")
        if first != wanted:
            raise InputError(
                f"{out} was started with other settings",
                "repeat the first settings or choose another --out",
            )
        done = {}
        by_name = {i.file: i for i in items}
        for line in lines[:-1]:  # what follows the last newline was cut off
            crafted = msgspec.json.decode(line, type=Crafted)
            item, file = by_name.get(crafted.source), out / crafted.file
            if (
                item == Item(crafted.source, crafted.label, crafted.target)
                and sha256_of(dataset.root / crafted.source) == crafted.clean_sha256
                and file.is_file()
                and sha256_of(file) == crafted.sha256
            ):
                done[crafted.source] = crafted
        write_bytes(started, b"\n".join([wanted, *map(msgspec.json.encode, done.values()), b""]))
        return done
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} is not an empty folder", "choose another --out, or continue it with --resume"
        )
    write_bytes(started, wanted + b"\n")
    return {}


def _chunks(dataset: Dataset, items: Sequence[Item], batch: int) -> Iterator[list[Item]]:
    """Batches of images of one size."""
    for group in folder.groups_by_size(dataset, items).values():
        for at in range(0, len(group), batch):
            yield group[at : at + batch]


def _attack(
    dataset: Dataset,
    chunk: Sequence[Item],
    surrogates: Sequence[ErodedModel],
    out: Path,
    settings: Settings,
    batch: int,
) -> Iterator[Crafted]:
    # Kernels depend on the batch size: short batches are filled, so an image alone keeps its bits.
    filled = [*chunk, *[chunk[-1]] * (batch - len(chunk))]
    clean = folder.stack(dataset, filled)
    wanted = [i.target if settings.targeted and i.target is not None else i.label for i in filled]
    attacked = deep_fusion(
        surrogates, clean, torch.tensor(wanted), [i.file for i in filled], settings
    )
    saved = quantise(attacked, clean, settings.eps)
    distance = (saved.int() - torch.round(clean * 255).int()).abs().amax((1, 2, 3))
    for index, item in enumerate(chunk):
        name = _saved_as(item)
        buffer = io.BytesIO()
        Image.fromarray(saved[index].permute(1, 2, 0).numpy()).save(buffer, "PNG")
        buffer.seek(0)
        with replacing(out / name) as partial, partial.open("wb") as file:
            copyfileobj(buffer, file)
        yield Crafted(
            file=name,
            source=item.file,
            label=item.label,
            target=item.target,
            linf=int(distance[index]),
            clean_sha256=sha256_of(dataset.root / item.file),
            sha256=sha256_of(out / name),
        )
