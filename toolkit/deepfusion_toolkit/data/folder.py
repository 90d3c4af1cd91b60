"""Labelled images in a folder: what is there, which class it is, and its pixels.

Two layouts: an *ImageFolder* (one sub folder a class, classes in the order of their sorted names)
or a folder with a ``labels.csv`` (see `labels`), which wins where both are present. Images are PNG
or JPEG files. Paths are checked by their text; links inside the folder are followed.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from deepfusion_edge import image
from deepfusion_edge.erosion import stream_of
from deepfusion_edge.errors import InputError, UsageError
from deepfusion_toolkit.data.labels import parse_labels

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg")
LABELS = "labels.csv"

Layout = Literal["folders", "labels.csv"]
_LAYOUTS = "give an ImageFolder (one sub folder a class) or a folder with a labels.csv"


@dataclass(frozen=True)
class Item:
    """One image: path relative to the root (posix), class number, wanted class of an attack."""

    file: str
    label: int
    target: int | None = None


@dataclass(frozen=True)
class Dataset:
    """A folder of labelled images; pixels are read when asked for.

    Attributes:
        root: the folder.
        items: at least one, in a stable order.
        classes: names by class number; None if only numbers are known (labels.csv).
        layout: how the folder says which class an image has.
    """

    root: Path
    items: tuple[Item, ...]
    classes: tuple[str, ...] | None
    layout: Layout

    def __len__(self) -> int:
        return len(self.items)

    def name(self, label: int) -> str:
        """Return the name of a class, its number where there is none."""
        if self.classes is not None and 0 <= label < len(self.classes):
            return self.classes[label]
        return str(label)

    def read(self, item: Item) -> image.Pixels:
        """Decode one image to RGB, uint8 [H, W, 3].

        Raises:
            InputError: the file is missing, not a PNG or JPEG, too large or corrupt; it is named.
        """
        try:
            return image.decode(self._bytes(item))
        except InputError as error:
            raise InputError(f"{self.root / item.file}: {error.what}", error.remedy) from error

    def size(self, item: Item) -> tuple[int, int]:
        """Return (height, width) in pixels from the header, without decoding; errors as `read`."""
        try:
            header = image.read_header(self._bytes(item))
        except InputError as error:
            raise InputError(f"{self.root / item.file}: {error.what}", error.remedy) from error
        return header.height, header.width

    def _bytes(self, item: Item) -> bytes:
        try:
            with (self.root / item.file).open("rb") as file:
                return file.read(image.MAX_BYTES + 1)
        except OSError as error:
            raise InputError(
                f"cannot be read ({error.strerror})", "restore the file or its permissions"
            ) from error


def load(path: Path, *, classes: Sequence[str] | None = None) -> Dataset:
    """List the images of a folder in either layout.

    Args:
        path: the folder.
        classes: names by class number, where a model fixes them: sub folders must be among them
            (a class without a folder is allowed then) and labels must be below their number.

    Raises:
        InputError: the folder is missing or holds no image, a class folder is empty, a listed
            file is missing, a class is unknown, or labels.csv breaks a rule.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder", _LAYOUTS)
    names = None if classes is None else tuple(classes)
    try:
        if (path / LABELS).is_file():
            return Dataset(path, _listed(path, names), names, "labels.csv")
        return _folders(path, names)
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be read ({error.strerror})", "check its permissions"
        ) from error


def _folders(root: Path, names: tuple[str, ...] | None) -> Dataset:
    found = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise InputError(f"{root} holds no class folder and no labels.csv", _LAYOUTS)
    classes = tuple(found) if names is None else names
    items: list[Item] = []
    for name in found:
        if name not in classes:
            raise InputError(
                f"class folder {root / name} is none of the classes {', '.join(classes)}",
                "remove the folder or use the model of these classes",
            )
        files = sorted(_images(root / name))
        if not files:
            raise InputError(
                f"class folder {root / name} holds no PNG or JPEG image",
                "add images or remove the folder",
            )
        items += [Item(f"{name}/{file}", classes.index(name)) for file in files]
    return Dataset(root, tuple(items), classes, "folders")


def _images(folder: Path) -> Iterable[str]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield relative.as_posix()


def _listed(root: Path, names: tuple[str, ...] | None) -> tuple[Item, ...]:
    try:
        text = (root / LABELS).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{root / LABELS} is not UTF-8 text", "save it as UTF-8") from error
    try:
        rows = parse_labels(text)
    except InputError as error:
        raise InputError(f"{root}: {error.what}", error.remedy) from error
    for row in rows:
        if not (root / row.file).is_file():
            raise InputError(
                f"{root / row.file}, listed in {LABELS}, is missing",
                "restore the file or remove its line",
            )
        highest = max(row.label, -1 if row.target is None else row.target)
        if names is not None and highest >= len(names):
            raise InputError(
                f"{root / LABELS}: {row.file} has class {highest}, the model has {len(names)}",
                "use the model and the labels of the same classes, counted from 0",
            )
    return tuple(Item(row.file, row.label, row.target) for row in rows)


def subset(
    dataset: Dataset, *, per_class: int | None = None, limit: int | None = None, seed: int = 0
) -> Dataset:
    """Draw images balanced over the classes, the same ones for the same seed.

    An image's rank depends on the seed and its own name alone, so a larger draw holds the smaller
    one, and removing a file changes nothing else. The order of the items is kept.

    Args:
        dataset: where from.
        per_class: at most so many of each class.
        limit: at most so many in all, one class after the other in turn.
        seed: which draw.

    Raises:
        UsageError: per_class or limit is below 1.
    """
    for name, value in (("per_class", per_class), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, is {value}", "give a positive number")
    by_class: dict[int, list[Item]] = defaultdict(list)
    for item in sorted(dataset.items, key=lambda i: (stream_of("subset", seed, i.file), i.file)):
        by_class[item.label].append(item)
    turns = sorted(
        (turn, label, item.file)
        for label, ranked in by_class.items()
        for turn, item in enumerate(ranked[:per_class])
    )
    chosen = {file for _, _, file in turns[:limit]}
    return replace(dataset, items=tuple(item for item in dataset.items if item.file in chosen))


def highest_label(dataset: Dataset) -> int:
    """Return the highest class number in use; a model needs more outputs than that."""
    return max(item.label for item in dataset.items)


def groups_by_size(dataset: Dataset, items: Sequence[Item]) -> dict[tuple[int, int], list[Item]]:
    """Sort items by (height, width), in the order of first appearance, for `stack`."""
    groups: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        groups.setdefault(dataset.size(item), []).append(item)
    return groups


def stack(dataset: Dataset, items: Sequence[Item]) -> "Tensor":
    """Read images at their own size: float32 [N, 3, H, W] in [0, 1], exact multiples of 1/255.

    Raises:
        InputError: there is no item, a file cannot be read, or two sizes differ.
    """
    pixels = [dataset.read(item) for item in _some(dataset, items)]
    for item, one in zip(items, pixels, strict=True):
        if one.shape != pixels[0].shape:
            raise InputError(
                f"{dataset.root / item.file} is {one.shape[1]}x{one.shape[0]} pixels, "
                f"{items[0].file} is {pixels[0].shape[1]}x{pixels[0].shape[0]}",
                "give images of one size",
            )
    return _tensor([image.to_input(one, *one.shape[:2]) for one in pixels])


def images_as_input(dataset: Dataset, items: Sequence[Item], height: int, width: int) -> "Tensor":
    """Read images as the device does: resized, float32 [N, 3, height, width] in [0, 1].

    Raises:
        InputError: there is no item or a file cannot be read.
    """
    chosen = _some(dataset, items)
    return _tensor([image.to_input(dataset.read(item), height, width) for item in chosen])


def _some(dataset: Dataset, items: Sequence[Item]) -> Sequence[Item]:
    if not items:
        raise InputError(f"no image chosen from {dataset.root}", "choose at least one")
    return items


def _tensor(inputs: "list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]") -> "Tensor":
    import torch

    return torch.from_numpy(np.concatenate(inputs))
