"""Training a small classifier from a folder of images, for people without one."""

from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepfusion_edge.errors import InputError
from deepfusion_toolkit.augment import Turn, harmless_turns, turned
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.models import Classifier, save
from deepfusion_toolkit.nets import FAMILIES
from deepfusion_toolkit.report.terminal import progress

HELD_OUT = 0.15
"""Share of each class kept for validation and calibration."""
UPRIGHT = 0.25
"""Share of the training in which images are shown as they are, to learn which turns they bear."""
FORGIVEN = 0.02
"""Accuracy that a turn may cost after that."""


class Split(NamedTuple):
    """Two disjoint parts of a data set, balanced over the classes, the same for the same seed."""

    train: Dataset
    held_out: Dataset


def split(dataset: Dataset) -> Split:
    """Keep back a share of the images, the same for training and hardening whatever their seeds.

    Raises:
        InputError: fewer than two classes, or too few images to keep any back.
    """
    labels = {item.label for item in dataset.items}
    if len(labels) < 2:  # noqa: PLR2004
        raise InputError(
            f"{dataset.root} has images of {len(labels)} class",
            "training needs two classes or more",
        )
    wanted = max(len(labels), round(len(dataset) * HELD_OUT))
    held_out = folder.subset(dataset, limit=wanted)
    kept = {item.file for item in held_out.items}
    rest = tuple(item for item in dataset.items if item.file not in kept)
    if not rest:
        raise InputError(
            f"{dataset.root} has {len(dataset)} images of {len(labels)} classes: none to keep back",
            "add images",
        )
    return Split(Dataset(dataset.root, rest, dataset.classes, dataset.layout), held_out)


def pixels_of(dataset: Dataset, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Read a whole data set as the device would: uint8 [N, 3, h, w] and labels [N]."""
    parts = []
    with progress("reading images", len(dataset)) as advance:
        for at in range(0, len(dataset), 256):
            items = dataset.items[at : at + 256]
            images = folder.images_as_input(dataset, items, *size)
            parts.append(torch.round(images * 255).to(torch.uint8))
            advance(len(items))
    return torch.cat(parts), torch.tensor([item.label for item in dataset.items])


def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Share of images that a classifier gets right."""
    with torch.no_grad():
        hits = sum(
            int((model(p / 255).argmax(1) == y).sum())
            for p, y in zip(pixels.split(128), labels.split(128), strict=True)
        )
    return hits / len(labels)


def train(
    dataset: Dataset, family: str, out: Path, *, epochs: int = 6, seed: int = 0, batch: int = 32
) -> float:
    """Train one of the small families (one-cycle rate) and save it.

    After a quarter of the training, images are also mirrored and turned, in the ways that the net
    does not mind then: a scratch is one upside down, a digit or a horse is not.

    Returns:
        Accuracy on the held-out share, in [0, 1].

    Raises:
        InputError: see ``split``; also labels without class names.
    """
    if dataset.classes is None:
        raise InputError(f"{dataset.root} has no class folders", "train on an ImageFolder")
    parts = split(dataset)
    size = dataset.size(dataset.items[0])
    torch.manual_seed(seed)
    net = FAMILIES[family](len(dataset.classes))
    pixels, labels = pixels_of(parts.train, size)
    held = pixels_of(parts.held_out, size)
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = max(1, -(-len(labels) // batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=epochs * steps)
    turns: tuple[Turn, ...] = ()
    with progress(f"training {family}", epochs * steps) as advance:
        for epoch in range(epochs):
            if epoch == ceil(epochs * UPRIGHT):
                net.eval()
                turns = harmless_turns(partial(accuracy, net, labels=held[1]), held[0], FORGIVEN)
                net.train()
            order = torch.randperm(len(labels), generator=draw)
            for chosen in order.split(batch):
                images = turned(pixels[chosen] / 255, turns, draw)
                if len(chosen) > 1:  # batch norm has no variance of one image
                    loss = functional.cross_entropy(
                        net(images), labels[chosen], label_smoothing=0.05
                    )
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                schedule.step()
                advance(1)
    classifier = Classifier(net, name=family, size=size)
    save(classifier.core, size, out)
    return accuracy(classifier, *held)
