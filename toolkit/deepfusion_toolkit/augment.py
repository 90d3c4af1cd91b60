"""Images mirrored, turned and shifted for training, in ways that a model does not mind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def across(images: Tensor) -> Tensor:
    """Swap left and right of [N, 3, H, W]."""
    return images.flip(-1)


def down(images: Tensor) -> Tensor:
    """Swap top and bottom of [N, 3, H, W]."""
    return images.flip(-2)


def diagonal(images: Tensor) -> Tensor:
    """Swap height and width; other than square images stay as they are."""
    return images.transpose(-1, -2) if images.shape[-1] == images.shape[-2] else images


@dataclass(frozen=True)
class Shift:
    """Move [N, 3, H, W] by a share of the sides; what is uncovered is filled by its mirror image.

    Attributes:
        down: share of the height, in (-1, 1).
        across: share of the width, in (-1, 1).
    """

    down: float
    across: float

    def __call__(self, images: Tensor) -> Tensor:
        """The moved images, in whole pixels."""
        height, width = images.shape[-2:]
        rows = _mirrored(torch.arange(height) - round(self.down * height), height)
        columns = _mirrored(torch.arange(width) - round(self.across * width), width)
        return images[..., rows, :][..., columns]


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Places outside of [0, size) as seen in a mirror on the first or the last."""
    return size - 1 - (size - 1 - places.abs()).abs()


Turn = Callable[[Tensor], Tensor]
TURNS: tuple[Turn, ...] = (across, down, diagonal)
SHIFTS: tuple[Turn, ...] = tuple(
    Shift(sign * share * y, sign * share * x)
    for share in (1 / 32, 1 / 16)
    for y, x in ((1, 0), (0, 1))
    for sign in (-1, 1)
)
"""Each for half of the images, they add up to three pixels of 32 at most."""


def harmless_turns(
    accuracy: Callable[[Tensor], float],
    pixels: Tensor,
    drop: float,
    turns: Sequence[Turn] = TURNS,
) -> tuple[Turn, ...]:
    """Mirror images and the like of which a model loses at most ``drop`` of its accuracy.

    More than that is forgiven where few images leave it to chance: one over the root of their
    number, twice the largest standard error of a share.

    Args:
        accuracy: of the model on such images, in [0, 1].
        pixels: uint8 [N, 3, H, W].
        drop: in [0, 1].
        turns: those that are tried.
    """
    least = accuracy(pixels) - drop - len(pixels) ** -0.5
    return tuple(turn for turn in turns if accuracy(turn(pixels).contiguous()) >= least)


def turned(images: Tensor, turns: Sequence[Turn], draw: torch.Generator) -> Tensor:
    """Each turn for half of the images [N, 3, H, W], drawn one by one."""
    images = images.contiguous(memory_format=torch.channels_last)  # several times faster on a CPU
    for turn in turns:
        chosen = torch.rand(len(images), generator=draw) < 0.5  # noqa: PLR2004
        images[chosen] = turn(images[chosen])
    return images
