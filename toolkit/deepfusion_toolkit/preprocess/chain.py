"""The stages as one network: differentiable for an attacker, exact for every runtime.

Between stages pixels are whole numbers in [0, 255], as a device's frames are. All sums are exact in
float32, so torch and ONNX Runtime give the same image, not nearly the same: what follows a rounding
would otherwise differ by a grey level now and then, and no tolerance would be small.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepfusion_toolkit.preprocess.jpeg import JpegStage
from deepfusion_toolkit.preprocess.rounding import edged, nearest, straight_through
from deepfusion_toolkit.preprocess.stages import BitDepth, Jpeg, Median, ResizePad, Stage

_WEIGHT_BITS = 15


class Preprocessor(nn.Module):
    """RGB [N, 3, H, W] in [0, 1] -> the same shape; the identity without stages."""

    def __init__(self, stages: Sequence[Stage], size: tuple[int, int]) -> None:
        """Prepare stages for images of one size (height, width)."""
        super().__init__()
        self.stages = nn.ModuleList(_made(stage, size) for stage in stages)

    def forward(self, images: Tensor) -> Tensor:
        """Round to 8 bits, then run the stages in order."""
        if not len(self.stages):
            return images
        pixels = _rounded(images * 255)
        for stage in self.stages:
            pixels = stage(pixels)
        return pixels / 255


def _rounded(smooth: Tensor) -> Tensor:
    return straight_through(smooth, nearest(smooth))


class _Rounding(nn.Module):
    """A stage that rounds: an attacker's gradient passes as if it changed nothing."""

    def __init__(self, rounded: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rounded = rounded

    def forward(self, pixels: Tensor) -> Tensor:
        return straight_through(pixels, self.rounded(pixels.detach()))


def _coarse(bits: int) -> Callable[[Tensor], Tensor]:
    """Whole numbers to 2**bits evenly spaced ones and back; no value lies between two of them."""
    steps = 2**bits - 1
    return lambda pixels: nearest(nearest(pixels * steps / 255) * 255 / steps)


class _Median(nn.Module):
    """The median of nine: of the largest low, the middle middle and the smallest high of columns.

    A column's three values are sorted once and used for three pixels (Smith, 1996).
    """

    def forward(self, pixels: Tensor) -> Tensor:
        around = edged(edged(pixels, -2, (1, 1)), -1, (1, 1))
        low, middle, high = _sorted(*_thirds(around, -2))
        return _sorted(
            _sorted(*_thirds(low, -1))[2],
            _sorted(*_thirds(middle, -1))[1],
            _sorted(*_thirds(high, -1))[0],
        )[1]


def _thirds(values: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    length = values.shape[dim] - 2
    return (
        values.narrow(dim, 0, length),
        values.narrow(dim, 1, length),
        values.narrow(dim, 2, length),
    )


def _sorted(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    middle = torch.maximum(low, torch.minimum(high, c))
    return torch.minimum(low, c), middle, torch.maximum(high, c)


class _ResizePad(nn.Module):
    """Shrink with Pillow's bilinear filter, rows first and rounded between, then pad with black."""

    def __init__(self, share: float, size: tuple[int, int]) -> None:
        super().__init__()
        small = [max(1, int(side * share)) for side in size]
        self.down: Tensor
        self.across: Tensor
        self.register_buffer("down", _shrinking(size[0], small[0]))
        self.register_buffer("across", _shrinking(size[1], small[1]).T.contiguous())
        top, left = ((side - less) // 2 for side, less in zip(size, small, strict=True))
        self.margins = (left, size[1] - small[1] - left, top, size[0] - small[0] - top)

    def forward(self, pixels: Tensor) -> Tensor:
        narrow = _rounded(pixels @ self.across)
        return functional.pad(_rounded(self.down @ narrow), self.margins)


def _shrinking(length: int, target: int) -> Tensor:
    """Weights [target, length] in steps of 2**-15, each row of sum 1."""
    scale = length / target
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    places = torch.arange(length, dtype=torch.float64) + 0.5
    weights = (1 - (places - centres[:, None]).abs() / scale).clamp(min=0)
    weights = torch.round(weights / weights.sum(1, keepdim=True) * 2**_WEIGHT_BITS)
    missing = 2**_WEIGHT_BITS - weights.sum(1)
    weights[torch.arange(target), weights.argmax(1)] += missing
    return weights.float().div(2**_WEIGHT_BITS)


def _made(stage: Stage, size: tuple[int, int]) -> nn.Module:
    match stage:
        case Jpeg():
            return _Rounding(JpegStage(stage.quality))
        case BitDepth():
            return _Rounding(_coarse(stage.bits))
        case Median():
            return _Median()
        case ResizePad():
            return _ResizePad(stage.share, size)
