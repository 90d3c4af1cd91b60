"""Images in memory: what training reads, and which turns of them a model does not mind."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.training import TURNS, Turn, accuracy, pixels_of


class Images(NamedTuple):
    """Pixels uint8 [N, 3, H, W], labels [N] and file names, in one order."""

    pixels: Tensor
    labels: Tensor
    keys: tuple[str, ...]

    def some(self, chosen: Sequence[int]) -> "Images":
        """The images at these places."""
        at = torch.as_tensor(chosen, dtype=torch.long)
        return Images(self.pixels[at], self.labels[at], tuple(self.keys[i] for i in chosen))


def images_of(dataset: Dataset, size: tuple[int, int]) -> Images:
    """Read a data set as the device would."""
    pixels, labels = pixels_of(dataset, size)
    return Images(pixels, labels, tuple(item.file for item in dataset.items))


def harmless_turns(model: nn.Module, images: Images, drop: float) -> tuple[Turn, ...]:
    """Mirror images and the like of which a model loses at most ``drop`` of its accuracy.

    More than that is forgiven where few images leave it to chance: one over the root of their
    number, twice the largest standard error of a share.
    """
    least = accuracy(model, images.pixels, images.labels) - drop - len(images.keys) ** -0.5
    return tuple(
        turn
        for turn in TURNS
        if accuracy(model, turn(images.pixels).contiguous(), images.labels) >= least
    )
