"""Images in memory: what training reads."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.training import pixels_of


class Images(NamedTuple):
    """Pixels uint8 [N, 3, H, W], labels [N] and file names, in one order."""

    pixels: Tensor
    labels: Tensor
    keys: tuple[str, ...]

    def some(self, chosen: Sequence[int]) -> "Images":
        """The images at these places."""
        at = torch.as_tensor(chosen, dtype=torch.long)
        return Images(self.pixels[at], self.labels[at], tuple(self.keys[i] for i in chosen))

    def shown_as(self, shown: Tensor) -> "Images":
        """The same images turned or shifted: [N, 3, H, W] in [0, 1], whole steps of 1/255."""
        return self._replace(pixels=torch.round(shown * 255).to(torch.uint8))


def images_of(dataset: Dataset, size: tuple[int, int]) -> Images:
    """Read a data set as the device would."""
    pixels, labels = pixels_of(dataset, size)
    return Images(pixels, labels, tuple(item.file for item in dataset.items))
