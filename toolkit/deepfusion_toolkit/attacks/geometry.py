"""Geometric input transforms as maps from output to source coordinates: composed, sampled once.

A grid is a pair (x, y) of coordinates in [-1, 1] over the image, pixel centres inside, as in
``grid_sample(align_corners=False)``; a point outside shows black. Both broadcast to [N, H, W]: what
depends on the column alone is [N, 1, W], so that most of a map is computed for lines, not for
pixels. Each map takes a grid and N rows of uniform numbers in [0, 1), so an image's transform
depends on its own numbers alone.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

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


class Grid(NamedTuple):
    """Source coordinates of N images of one size: x and y broadcast to [N, *size]."""

    x: Tensor
    y: Tensor
    size: tuple[int, int]

    def stacked(self) -> Tensor:
        """As ``grid_sample`` wants it: [N, H, W, 2]."""
        shape = (len(self.x), *self.size)
        return torch.stack((self.x.expand(shape), self.y.expand(shape)), dim=-1)


Map = Callable[[Grid, Tensor], Grid]


def identity(count: int, height: int, width: int) -> Grid:
    """Grid that changes nothing."""
    y = (torch.arange(height) * 2 + 1) / height - 1
    x = (torch.arange(width) * 2 + 1) / width - 1
    return Grid(x.expand(count, 1, width), y[:, None].expand(count, height, 1), (height, width))


def resize_pad(grid: Grid, u: Tensor) -> Grid:
    """Shrink to a random size, place it anywhere, black around (DI, Xie et al., CVPR 2019)."""
    size = SHRINK + (1 - SHRINK) * u[:, 0]
    room = 1 - size
    x = (grid.x - _each(room * (2 * u[:, 1] - 1))) / _each(size)
    y = (grid.y - _each(room * (2 * u[:, 2] - 1))) / _each(size)
    return grid._replace(x=x, y=y)


def turn(grid: Grid, u: Tensor) -> Grid:
    """Turn the whole image by at most ``TURN`` about its centre, without shear."""
    angle = _each(TURN * (2 * u[:, 0] - 1))
    ratio = grid.size[1] / grid.size[0]
    x, y = grid.x * ratio, grid.y  # both in halves of the height
    cos, sin = angle.cos(), angle.sin()
    return grid._replace(x=(cos * x + sin * y) / ratio, y=cos * y - sin * x)


def shuffle_rotate(grid: Grid, u: Tensor) -> Grid:
    """Shuffle strips along one side, turn each, shuffle its parts (BSR, Wang et al., CVPR 2024)."""
    height, width = grid.size
    x, y = torch.empty(len(u), height, width), torch.empty(len(u), height, width)
    first = u[:, 0] < 0.5  # noqa: PLR2004 - either side first
    for upright, chosen in ((True, ~first), (False, first)):
        which = chosen.nonzero()[:, 0]
        old_x, old_y, numbers = grid.x[which], grid.y[which], u[which, 1:]
        if upright:
            new_x, new_y = _shuffled(old_x, old_y, numbers, width / 2, height / 2)
        else:
            new_y, new_x = _shuffled(old_y, old_x, numbers, height / 2, width / 2)
        # what is outside already must not be shuffled back in
        outside = (old_x.abs() > 1) | (old_y.abs() > 1)
        x[which], y[which] = (
            new_x.masked_fill(outside, OUTSIDE),
            new_y.masked_fill(outside, OUTSIDE),
        )
    return Grid(x, y, grid.size)


def _shuffled(
    across: Tensor, long: Tensor, u: Tensor, pixels_across: float, pixels_long: float
) -> tuple[Tensor, Tensor]:
    """Along ``long`` first; pixels a unit, to cut between them and to turn without shear."""
    columns = iter(u.unbind(1))
    strip, long, start, length = _strips(long, columns, pixels_long)
    wide, angle = torch.zeros(()), torch.zeros(())
    for which in range(BLOCKS):
        mine = strip == which
        wide = torch.where(mine, _strips(across, columns, pixels_across)[1], wide)
        angle = torch.where(mine, _each(TURN * (2 * next(columns) - 1)), angle)
    cos, sin, ratio = angle.cos(), angle.sin(), pixels_across / pixels_long
    centre = start + length / 2
    dx, dy = wide * ratio, long - centre
    turned, along = (cos * dx + sin * dy) / ratio, cos * dy - sin * dx
    outside = (along.abs() > length / 2) | (turned.abs() > 1)
    return turned.masked_fill_(outside, OUTSIDE), (along + centre).masked_fill_(outside, OUTSIDE)


def _strips(
    at: Tensor, columns: Iterator[Tensor], pixels: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which source strip shows at a coordinate, the coordinate there, the strip's start and length.

    Cuts are at whole pixels, so that nothing is blurred.
    """
    cuts = torch.stack([next(columns) for _ in range(BLOCKS - 1)], 1)
    order = torch.stack([next(columns) for _ in range(BLOCKS)], 1).argsort(1)
    whole = 2 * pixels
    cuts = ((0.1 + 0.8 * cuts.sort(1).values) * whole).round() / whole * 2 - 1
    edge = torch.ones_like(cuts[:, :1])
    edges = torch.cat((-edge, cuts, edge), 1)  # [N, BLOCKS + 1]
    lengths = edges.diff(dim=1)
    placed = lengths.gather(1, order)
    ends = placed.cumsum(1) - 1
    slot = (at[..., None] >= ends[:, None, None, :-1]).sum(-1)  # [N, H, W], broadcast
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


def _each(value: Tensor) -> Tensor:
    """One number an image, [N], to broadcast over its pixels."""
    return value[:, None, None]
