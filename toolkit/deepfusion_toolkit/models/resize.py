"""Resizing as Pillow does, and the same spelled as matrix products for exported graphs."""

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

_BAND = 16
"""Rows that one matrix product makes: few, because each reads only the rows that it needs."""


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [N, 3, H, W] to (height, width), differentiably, as Pillow does."""
    if tuple(image.shape[-2:]) == size:
        return image
    # where nothing shrinks, antialiasing changes nothing and takes twice the time or more
    shrinks = any(new < old for new, old in zip(size, image.shape[-2:], strict=True))
    if shrinks and torch.compiler.is_exporting():
        # TensorRT has no antialiased Resize
        return rows_resized(rows_resized(image, size[0]).mT, size[1]).mT
    return functional.interpolate(image, size, mode="bilinear", antialias=shrinks)


def rows_resized(image: Tensor, rows: int) -> Tensor:
    """Resize [..., H, W] to [..., rows, W] by products with the weights of ``triangles``."""
    weights = triangles(int(image.shape[-2]), rows)
    parts = []
    for first in range(0, rows, _BAND):
        band = weights[first : first + _BAND]
        used = [at for at in range(len(band[0])) if any(row[at] for row in band)]
        begin, end = used[0], used[-1] + 1
        matrix = torch.tensor([row[begin:end] for row in band], dtype=torch.float32)
        parts.append(torch.matmul(matrix, image[..., begin:end, :]))
    return torch.cat(parts, -2)


def triangles(old: int, new: int) -> list[list[float]]:
    """Weights [new, old] of a bilinear filter that widens where it shrinks; each row sums to 1.

    Pillow's and torch's own: a triangle around the middle of each new pixel, cut at the border.
    """
    step = old / new
    reach = max(step, 1.0)
    table = []
    for at in range(new):
        middle = (at + 0.5) * step
        begin = max(ceil(middle - reach - 0.5), 0)
        end = min(int(middle + reach + 0.5), old)
        row = [0.0] * old
        for place in range(begin, end):
            row[place] = max(0.0, 1 - abs(place + 0.5 - middle) / reach)
        total = sum(row)
        table.append([weight / total for weight in row])
    return table
