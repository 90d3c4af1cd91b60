"""An adversarial set on disk: its manifest, and the journal from which a run is resumed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec

from deepfusion_edge.errors import InputError
from deepfusion_toolkit.attacks import Settings
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.files import MALFORMED, sha256_of, write_bytes

MANIFEST, JOURNAL = "manifest.json", "journal.jsonl"


class Crafted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image of the set.

    Attributes:
        linf: largest change of the saved file, in units of 1/255.
        passes: forward and backward passes that were spent on it, all surrogates counted.
        batch: images attacked at once; less than the head's where memory ran out.
    """

    file: str
    source: str
    label: int
    target: int | None
    linf: int
    passes: int
    batch: int
    clean_sha256: str
    sha256: str


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides about the result; a resumed run must have the same.

    Attributes:
        threads: of torch in each process: kernels may sum in another order with another number.
            Where the work was done, and by how many processes, is not kept.
    """

    version: str
    torch: str
    attack: str
    eps: float
    passes_per_image: int
    settings: Settings
    seed: int
    batch: int
    surrogates: list[str]
    fingerprints: list[str]
    sites: list[int]
    taps: list[str]
    bank: list[str]
    images: int
    threads: int | None = None


class SetManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json`` of an adversarial set, schema 2."""

    schema: Literal[2]
    head: Head
    classes: list[str] | None
    images: list[Crafted]


class _Target(msgspec.Struct):
    file: str
    target: int | None = None


class _Targets(msgspec.Struct):
    """What judging needs of a manifest of any schema."""

    images: list[_Target]


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
        made = msgspec.json.decode(manifest.read_bytes(), type=_Targets)
    except MALFORMED:
        return dataset  # some other tool's manifest
    targets = {image.file: image.target for image in made.images}
    items = tuple(Item(i.file, i.label, targets.get(i.file)) for i in dataset.items)
    return replace(dataset, items=items)


def begun_with(out: Path) -> Head | None:
    """The head of a set that stands or was begun in ``out``; None if there is none to read."""
    try:
        if (out / MANIFEST).is_file():
            return msgspec.json.decode((out / MANIFEST).read_bytes(), type=SetManifest).head
        if (out / JOURNAL).is_file():
            return msgspec.json.decode((out / JOURNAL).read_bytes().split(b"\n")[0], type=Head)
    except MALFORMED:
        return None
    return None


def open_set(
    dataset: Dataset, out: Path, head: Head, items: Sequence[Item], resume: bool
) -> dict[str, Crafted] | None:
    """Start or continue a set: what is finished, by source; None if the whole set is.

    Raises:
        InputError: ``out`` holds something else, other settings, or damaged records.
    """
    try:
        return _opened(dataset, out, head, items, resume)
    except MALFORMED as error:
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


def close_set(dataset: Dataset, out: Path, head: Head, made: Sequence[Crafted]) -> SetManifest:
    """Write labels (where the data set has such a file) and manifest; the journal goes."""
    if dataset.layout == "labels.csv":
        rows = [
            f"{c.file},{c.label}" + (f",{c.target}" if c.target is not None else "") for c in made
        ]
        title = "file,label,target" if made[0].target is not None else "file,label"
        write_bytes(out / folder.LABELS, "\n".join([title, *rows, ""]).encode())
    manifest = SetManifest(2, head, list(dataset.classes) if dataset.classes else None, list(made))
    write_bytes(
        out / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    )
    (out / JOURNAL).unlink()
    return manifest
