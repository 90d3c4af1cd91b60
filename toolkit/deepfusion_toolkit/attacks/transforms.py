"""Random input transforms, drawn for each image from its own stream and composable at will."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_edge.erosion import stream_of, uniform
from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.attacks import geometry

MAPS: dict[str, tuple[geometry.Map, int]] = {  # name -> map, uniform numbers an image
    "di": (geometry.resize_pad, 3),
    "turn": (geometry.turn, 1),
    "bsr": (geometry.shuffle_rotate, 12),
}
SCALES = 5
"""SI looks at the image, its half, its quarter and so on (Lin et al., ICLR 2020)."""
MIX = 0.2
"""Admix adds this share of another image (Wang et al., ICCV 2021)."""


def draw(keys: Sequence[str], count: int, seed: int, *stream: str | int) -> Tensor:
    """Numbers in [0, 1), [N, count], that depend on the seed, an image's key and the stream."""
    rows = [uniform(seed, stream_of(*stream, key), count) for key in keys]
    return torch.stack([torch.from_numpy(row) for row in rows]).float()


def apply(
    image: Tensor,
    names: Sequence[str],
    keys: Sequence[str],
    seed: int,
    stream: tuple[str | int, ...],
    bank: Tensor | None = None,
) -> Tensor:
    """Transform [N, 3, H, W] in [0, 1], differentiably; several geometric maps cost one sampling.

    Args:
        image: what the surrogate would see.
        names: of ``names.TRANSFORMS``; each draws once for each image.
        keys: N names of the images.
        seed: of all draws.
        stream: which draw this is.
        bank: [M, 3, H, W], images that Admix mixes in.

    Raises:
        UsageError: Admix without a bank.
    """
    count, _, height, width = image.shape
    maps = [name for name in names if name in MAPS]
    if maps:
        grid = geometry.identity(count, height, width)
        for name in maps:
            change, numbers = MAPS[name]
            grid = change(grid, draw(keys, numbers, seed, name, *stream))
        # The mean of black and white as the ground would be kinder; the papers pad with zeros.
        image = functional.grid_sample(image, grid.stacked().to(image), align_corners=False)
    if "admix" in names:
        if bank is None:
            raise UsageError("admix has no other image to mix in", "give two images or more")
        which = (draw(keys, 1, seed, "admix", *stream)[:, 0] * len(bank)).long()
        image = image + MIX * bank[which].to(image)
    if "si" in names:
        power = (draw(keys, 1, seed, "si", *stream)[:, 0] * SCALES).floor()
        image = image * (0.5**power).to(image)[:, None, None, None]
    return image


def smooth(gradient: Tensor, size: int) -> Tensor:
    """Blur a gradient [N, 3, H, W] with a Gaussian of an odd size (TI, Dong et al., CVPR 2019)."""
    at = torch.linspace(-3, 3, size).to(gradient)  # three standard deviations
    line = torch.exp(-(at**2) / 2)
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum()).expand(3, 1, size, size)
    return functional.conv2d(gradient, kernel, padding=size // 2, groups=3)
