"""Images in memory: what training reads."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepfusion_edge.erosion import stream_of
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


def partly(clean: Tensor, attacked: Tensor, draw: torch.Generator) -> Tensor:
    """Half of the attacked images [N, 3, H, W] whole, the others half of the way to it or more.

    Nobody shall be asked to tell a clean image from one that is nearly so.
    """
    part = (0.5 + torch.rand((len(clean), 1, 1, 1), generator=draw)).clamp_max(1)
    return torch.round(255 * torch.lerp(clean, attacked, part)) / 255


def stream(seed: int, *parts: str | int) -> torch.Generator:
    """A generator of its own for each part of training, so that a resumed run draws the same."""
    return torch.Generator().manual_seed(stream_of("harden", seed, *parts) % 2**63)
