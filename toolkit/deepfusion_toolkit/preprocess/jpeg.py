"""Baseline JPEG, coded and decoded, in whole numbers that every runtime computes alike.

Colours are converted with libjpeg's own 16-bit constants. The cosines have eleven bits and what is
between two passes is rounded to quarters, so that sums of products fit the 24 bits of a float32 and
come out the same in any order; only coefficients beyond a quarter of the range may differ in their
last bit. Without that, torch and ONNX Runtime would round some coefficients to different steps.
Tables and transform: ITU-T T.81 (1992), annexes A and K.
"""

from math import cos, pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepfusion_toolkit.preprocess.rounding import edged, nearest

SIDE = 8
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_TO_YCC = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
_TO_RGB = ((0, 0, 91881), (0, -22554, -46802), (0, 116130, 0))  # what is added to luminance
_COSINE_BITS = 11


def tables(quality: int) -> Tensor:
    """Quantisation steps [3, 8, 8] of Y, Cb and Cr, scaled as libjpeg does."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality  # noqa: PLR2004 - libjpeg's
    base = torch.tensor((LUMINANCE, CHROMINANCE, CHROMINANCE))
    return ((base * percent + 50) // 100).clamp(1, 255).float()


def _cosines() -> Tensor:
    """The transform [8, 8] times the root of 8, so that its first and fifth row are all +-1."""
    rows = [
        [(sqrt(2) if u else 1.0) * cos((2 * x + 1) * u * pi / 16) for x in range(SIDE)]
        for u in range(SIDE)
    ]
    exact = torch.tensor(rows, dtype=torch.float64)
    return torch.round(exact * 2**_COSINE_BITS).float().div(2**_COSINE_BITS)


class JpegStage(nn.Module):
    """Pixels [N, 3, H, W] of whole numbers in [0, 255] -> the same, coded and decoded."""

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.steps: Tensor
        self.cosines: Tensor
        self.to_ycc: Tensor
        self.offset: Tensor
        self.to_rgb: Tensor
        self.register_buffer("steps", tables(quality)[:, None, None])
        self.register_buffer("cosines", _cosines())
        self.register_buffer("to_ycc", torch.tensor(_TO_YCC)[..., None, None] / 65536)
        # half a step less than half: libjpeg rounds halves of chrominance down
        self.register_buffer("offset", torch.tensor((0, 128 - 2**-16, 128 - 2**-16)))
        self.register_buffer("to_rgb", torch.tensor(_TO_RGB)[..., None, None] / 65536)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute without gradients; ``straight_through`` gives them back."""
        ycc = nearest(functional.conv2d(pixels, self.to_ycc, self.offset)) - 128
        decoded = self._through_blocks(ycc)
        chroma = nearest(functional.conv2d(decoded - 128, self.to_rgb))
        return (decoded[:, :1] + chroma).clamp(0, 255)

    def _through_blocks(self, ycc: Tensor) -> Tensor:
        """Transform, quantise and transform back, block by block."""
        height, width = ycc.shape[-2:]
        down, right = -height % SIDE, -width % SIDE
        whole = edged(edged(ycc, -2, (0, down)), -1, (0, right))
        count, rows, columns = whole.shape[0], (height + down) // SIDE, (width + right) // SIDE
        blocks = whole.reshape(count, 3, rows, SIDE, columns, SIDE).transpose(3, 4)
        spectrum = self.cosines @ _quarters(blocks @ self.cosines.T)
        kept = nearest(spectrum / (SIDE * self.steps)) * self.steps
        blocks = _quarters(self.cosines.T @ kept) @ self.cosines
        blocks = nearest(blocks / SIDE + 128).clamp(0, 255)
        whole = blocks.transpose(3, 4).reshape(count, 3, rows * SIDE, columns * SIDE)
        return whole[..., :height, :width]


def _quarters(values: Tensor) -> Tensor:
    return nearest(values * 4) / 4
