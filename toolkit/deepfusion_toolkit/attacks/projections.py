"""Keeping an attack inside its budget, in floating point and in the saved file."""

import torch
from torch import Tensor


def into_ball(image: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Project onto the L-infinity ball around ``clean`` and onto [0, 1]."""
    return torch.clamp(torch.minimum(torch.maximum(image, clean - eps), clean + eps), 0.0, 1.0)


def quantise(image: Tensor, clean: Tensor, eps_255: float) -> Tensor:
    """Round to what an 8-bit file holds, uint8 [N, 3, H, W], never further than epsilon from clean.

    Args:
        image: [N, 3, H, W] in [0, 1].
        clean: the originals, exact multiples of 1/255.
        eps_255: epsilon in units of 1/255, at least 1.
    """
    original = torch.round(clean * 255)
    whole = int(eps_255)
    change = torch.clamp(torch.round(image * 255) - original, -whole, whole)
    return torch.clamp(original + change, 0, 255).to(torch.uint8)
