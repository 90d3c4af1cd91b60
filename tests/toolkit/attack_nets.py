"""Networks for 8x8 images whose attacks are known, and folders of images for them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import ErodedModel, erode, find_sites
from deepfusion_toolkit.surgery.graph import trace

SIDE = 8
SIZE = (SIDE, SIDE)
PIXELS = 3 * SIDE * SIDE


class Linear(nn.Module):
    """``weight @ (x + 1) + 0``: its activation is a site and never bends for x in [0, 1]."""

    input_size = SIZE

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(PIXELS, len(weight), bias=False)
        with torch.no_grad():
            self.lift.weight.copy_(torch.eye(3)[:, :, None, None])
            self.lift.bias.fill_(1.0)
            self.head.weight.copy_(weight)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.lift(image)).flatten(1))


class Skipping(nn.Module):
    """A residual sum and a smooth activation, random weights."""

    input_size = SIZE

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.main = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6 * 16, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.silu(self.stem(4 * image - 2))
        x = nn.functional.silu(x + self.main(x))
        return self.head(nn.functional.avg_pool2d(x, 2).flatten(1))


class Colour(nn.Module):
    """Class 0, 1 or 2: the strongest of red, green and blue."""

    input_size = SIZE

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.lift.weight.copy_(torch.eye(3)[:, :, None, None])
            self.lift.bias.zero_()
            self.head.weight.copy_(8 * torch.eye(3))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.lift(image)).mean((2, 3)))


class Learner(nn.Module):
    """16x16 images, three classes, a batch norm and a shortcut late in the network."""

    input_size = (16, 16)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.norm = nn.BatchNorm2d(width)
        self.middle = nn.Conv2d(width, width, 3, 2, 1)
        self.main = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.middle(torch.tanh(self.norm(self.stem(2 * image - 1))))
        return self.head((x + self.main(x)).mean((2, 3)))


def _seeded(seed: int, make, *args) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(*args)


def three() -> nn.Module:
    return _seeded(1, Skipping, 3)


def other_three() -> nn.Module:
    return _seeded(2, Skipping, 3)


def four() -> nn.Module:
    return _seeded(3, Skipping, 4)


def broken() -> nn.Module:
    net = three()
    with torch.no_grad():
        net.main.weight[0, 0, 0, 0] = float("nan")
    return net


def learner() -> nn.Module:
    return _seeded(4, Learner, 8)


def public() -> nn.Module:
    return _seeded(5, Learner, 6)


def classifier(make, *args) -> Classifier:
    net = make(*args)
    return Classifier(net, name=getattr(make, "__name__", "net"), size=net.input_size)


def unmoved(model: Classifier, taps: Sequence[str] = ()) -> ErodedModel:
    """An eroded model whose erosion has no strength."""
    sites = find_sites(trace(model.core, model.size), ("activation",), {"activation": 0.0})
    return erode(model, sites, taps)


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def random_folder(root: Path, classes: int = 3, each: int = 3, seed: int = 0) -> Path:
    draw = np.random.default_rng(seed)
    for label in range(classes):
        for number in range(each):
            picture(root / f"c{label}" / f"{number}.png", draw.integers(0, 256, (*SIZE, 3)))
    return root


def squares(root: Path, each: int, side: int = 16) -> Path:
    """Red, green and blue squares on noise: learnt in one look."""
    draw = np.random.default_rng(7)
    for label, name in enumerate(("a_red", "b_green", "c_blue")):
        for number in range(each):
            pixels = draw.integers(40, 120, (side, side, 3))
            x, y = draw.integers(0, side - 8, 2)
            pixels[y : y + 8, x : x + 8, label] = 250
            picture(root / name / f"{number}.png", pixels)
    return root
