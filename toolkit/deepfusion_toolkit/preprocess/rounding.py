"""Rounding as image libraries do it, gradients past it, and edges repeated outwards."""

import torch
from torch import Tensor


def nearest(values: Tensor) -> Tensor:
    """Round to whole numbers, halves away from zero."""
    return values.sign() * (values.abs() + 0.5).floor()


def straight_through(smooth: Tensor, rounded: Tensor) -> Tensor:
    """The value of ``rounded`` with the gradient of ``smooth`` (BPDA, Athalye et al., ICML 2018).

    Exact where both are of about one size: what is subtracted is added again.
    """
    return smooth + (rounded - smooth).detach()


def edged(pixels: Tensor, dim: int, sides: tuple[int, int]) -> Tensor:
    """Repeat the first and the last row (dim -2) or column (dim -1) so many times."""
    before, after = sides
    first, last = pixels.narrow(dim, 0, 1), pixels.narrow(dim, pixels.shape[dim] - 1, 1)
    parts = [*[first] * before, pixels, *[last] * after]
    return torch.cat(parts, dim) if len(parts) > 1 else pixels
