"""Geometric input transforms as maps from output to source coordinates: composed, sampled once.

A grid [N, H, W, 2] holds (x, y) in [-1, 1] over the image, pixel centres inside, as in
``grid_sample(align_corners=False)``; a point outside shows black. Each map takes a grid and N rows
of uniform numbers in [0, 1), so an image's transform depends on its own numbers alone.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

OUTSIDE = 3.0
"""A coordinate that is black whatever its neighbours: more than a pixel from any image."""

SHRINK = 0.7
"""Smallest side of an image resized by DI, relative to its own (DI: .90 to 1, RDI and later .6)."""
TURN = 0.42
"""Largest angle of a rotated block in radians (24 degrees, BSR)."""
BLOCKS = 2
"""Blocks a side that BSR shuffles."""

Map = Callable[[Tensor, Tensor], Tensor]


def identity(count: int, height: int, width: int) -> Tensor:
    """Grid [N, H, W, 2] that changes nothing."""
    y = (torch.arange(height) * 2 + 1) / height - 1
    x = (torch.arange(width) * 2 + 1) / width - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    return grid.expand(count, height, width, 2)


def resize_pad(grid: Tensor, u: Tensor) -> Tensor:
    """Shrink to a random size, place it anywhere, black around (DI, Xie et al., CVPR 2019)."""
    size = SHRINK + (1 - SHRINK) * u[:, :1]
    at = (1 - size) * (2 * u[:, 1:3] - 1)
    return (grid - at[:, None, None]) / size[:, None, None]


def turn(grid: Tensor, u: Tensor) -> Tensor:
    """Turn the whole image by at most ``TURN`` about its centre, without shear."""
    angle = TURN * (2 * u[:, 0] - 1)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    ratio = grid.shape[2] / grid.shape[1]
    x, y = grid[..., 0] * ratio, grid[..., 1]  # both in halves of the height
    return torch.stack(((cos * x + sin * y) / ratio, cos * y - sin * x), dim=-1)


def shuffle_rotate(grid: Tensor, u: Tensor) -> Tensor:
    """Shuffle strips along one side, turn each, shuffle its parts (BSR, Wang et al., CVPR 2024)."""
    swapped = u[:, 0] < 0.5  # noqa: PLR2004 - either side first
    both = torch.where(swapped[:, None, None, None], grid.flip(-1), grid)
    half = torch.tensor([grid.shape[2], grid.shape[1]]) / 2  # pixels a unit, (x, y)
    pixels = torch.where(swapped[:, None], half.flip(0), half)
    both = _shuffled(both, u[:, 1:], pixels)
    both = torch.where(swapped[:, None, None, None], both.flip(-1), both)
    # what is outside already must not be shuffled back in
    return torch.where((grid.abs() > 1).any(-1, keepdim=True), OUTSIDE, both)


def _shuffled(grid: Tensor, u: Tensor, pixels: Tensor) -> Tensor:
    """Along the last coordinate first; ``pixels`` [N, 2] a unit of each, to turn without shear."""
    columns = iter(u.unbind(1))
    strip, long, start, length = _strips(grid[..., 1], columns, pixels[:, 1])
    across = torch.empty_like(long)
    outside = torch.zeros_like(long, dtype=torch.bool)
    for which in range(BLOCKS):
        mine = strip == which
        _, wide, _, _ = _strips(grid[..., 0], columns, pixels[:, 0])
        angle = TURN * (2 * next(columns) - 1)
        cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
        ratio = (pixels[:, 0] / pixels[:, 1])[:, None, None]
        centre = start + length / 2
        dx, dy = wide * ratio, long - centre
        turned_x, turned_y = (cos * dx + sin * dy) / ratio, cos * dy - sin * dx
        across = torch.where(mine, turned_x, across)
        long = torch.where(mine, turned_y + centre, long)
        outside |= mine & ((turned_y.abs() > length / 2) | (turned_x.abs() > 1))
    moved = torch.stack((across, long), dim=-1)
    return torch.where(outside[..., None], OUTSIDE, moved)


def _strips(
    at: Tensor, columns: Iterator[Tensor], pixels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which source strip shows at a coordinate, the coordinate there, the strip's start and length.

    Cuts are at whole pixels, so that nothing is blurred.
    """
    cuts = torch.stack([next(columns) for _ in range(BLOCKS - 1)], 1)
    order = torch.stack([next(columns) for _ in range(BLOCKS)], 1).argsort(1)
    whole = 2 * pixels[:, None]
    cuts = ((0.1 + 0.8 * cuts.sort(1).values) * whole).round() / whole * 2 - 1
    edge = torch.ones_like(pixels)[:, None]
    edges = torch.cat((-edge, cuts, edge), 1)  # [N, BLOCKS + 1]
    lengths = edges.diff(dim=1)
    placed = lengths.gather(1, order)
    ends = placed.cumsum(1) - 1
    slot = (at[..., None] >= ends[:, None, None, :-1]).sum(-1)  # [N, H, W]
    flat = slot.flatten(1)
    source = order.gather(1, flat)
    begin = (ends - placed).gather(1, flat)
    start = edges.gather(1, source)
    there = at.flatten(1) - begin + start
    return (
        source.view_as(at),
        there.view_as(at),
        start.view_as(at),
        lengths.gather(1, source).view_as(at),
    )
