"""Small classifiers for images of 32 to 128 pixels: six families, fast to train on two cores.

Each takes RGB [N, 3, H, W] in [0, 1], H and W at least 32, and gives logits [N, classes];
normalisation is inside. Maps are pooled by mean and by maximum, because a defect may fill a few
pixels of an image that is otherwise fine. Different families make better surrogates for each other
than one family at two widths: shortcuts everywhere, between narrow layers or around wide kernels,
maps that are kept, and no shortcut at all. Some can be held back, to attack what the others harden.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution with 'same' padding, then batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Net(nn.Module):
    """Normalise, extract, pool, classify."""

    def __init__(self, features: nn.Sequential, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """RGB [N, 3, H, W] in [0, 1] -> logits [N, classes]."""
        maps = self.features((image - 0.5) / 0.5)
        pooled = torch.cat((maps.mean((2, 3)), maps.amax((2, 3))), 1)
        return self.head(pooled)  # type: ignore[no-any-return]


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, 3, stride)
        self.second = _conv(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(functional.relu(self.first(x)))
        return functional.relu(y + self.shortcut(x))


class _Inverted(nn.Module):
    """Expand, filter each channel on its own, project (Sandler et al., CVPR 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand = _conv(inputs, middle, 1)
        self.depthwise = _conv(middle, middle, 3, stride, groups=middle)
        self.project = _conv(middle, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.depthwise(functional.relu6(self.expand(x))))
        y = self.project(y)
        return x + y if self.residual else y  # type: ignore[no-any-return]


class _Fire(nn.Module):
    """Squeeze, then 1x1 and 3x3 side by side (Iandola et al., 2016), with batch norm."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = _conv(inputs, squeeze, 1)
        self.narrow = _conv(squeeze, expand, 1)
        self.wide = _conv(squeeze, expand, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x))
        return functional.relu(torch.cat((self.narrow(x), self.wide(x)), 1))


class _Dense(nn.Module):
    """Every layer adds maps to all earlier ones (Huang et al., CVPR 2017)."""

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(inputs + n * growth, growth, 3) for n in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat((x, functional.relu(layer(x))), 1)
        return x


class _Wide(nn.Module):
    """A 7x7 filter of each channel, then two 1x1 (Liu et al., CVPR 2022), with batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filter = _conv(channels, channels, 7, groups=channels)
        self.expand = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(3 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(functional.gelu(self.expand(self.filter(x))))  # type: ignore[no-any-return]


def residual(classes: int) -> nn.Module:
    """Eight-layer residual net, 24 to 96 channels."""
    features = nn.Sequential(
        _conv(3, 24, 3, 2),
        nn.ReLU(),
        _Residual(24, 24, 1),
        _Residual(24, 48, 2),
        _Residual(48, 48, 1),
        _Residual(48, 96, 2),
    )
    return _Net(features, 96, classes)


def depthwise(classes: int) -> nn.Module:
    """Inverted residuals, 24 to 64 channels, as in mobile nets."""
    features = nn.Sequential(
        _conv(3, 24, 3, 2),
        nn.ReLU6(),
        _Inverted(24, 32, 2, 3),
        _Inverted(32, 32, 1, 4),
        _Inverted(32, 64, 2, 4),
        _Inverted(64, 64, 1, 4),
        _Inverted(64, 64, 1, 4),
        _conv(64, 192, 1),
        nn.ReLU6(),
    )
    return _Net(features, 192, classes)


def fire(classes: int) -> nn.Module:
    """Fire modules, 64 to 256 channels, no shortcut."""
    features = nn.Sequential(
        _conv(3, 32, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        _Fire(32, 16, 48),
        _Fire(96, 24, 64),
        nn.MaxPool2d(3, 2, 1),
        _Fire(128, 32, 96),
        _Fire(192, 48, 128),
    )
    return _Net(features, 256, classes)


def dense(classes: int) -> nn.Module:
    """Three dense blocks, 24 to 130 channels, halved in between."""
    features = nn.Sequential(
        _conv(3, 24, 3, 2),
        nn.ReLU(),
        _Dense(24, 18, 3),
        _conv(78, 52, 1, 2),
        nn.ReLU(),
        _Dense(52, 18, 3),
        _conv(106, 76, 1, 2),
        nn.ReLU(),
        _Dense(76, 18, 3),
    )
    return _Net(features, 130, classes)


def plain(classes: int) -> nn.Module:
    """Six 3x3 convolutions, 24 to 96 channels, no shortcut (Simonyan and Zisserman, ICLR 2015)."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 24, 2), (24, 32, 1), (32, 48, 2), (48, 64, 1), (64, 96, 2),
                                    (96, 96, 1)):  # fmt: skip
        layers += [_conv(inputs, outputs, 3, stride), nn.ReLU()]
    return _Net(nn.Sequential(*layers), 96, classes)


def wide(classes: int) -> nn.Module:
    """7x7 filters inside shortcuts, 48 and 96 channels, smooth activations."""
    features = nn.Sequential(
        _conv(3, 48, 5, 2),
        nn.GELU(),
        nn.MaxPool2d(2),
        _Wide(48),
        _Wide(48),
        _conv(48, 96, 3, 2),
        _Wide(96),
        _Wide(96),
    )
    return _Net(features, 96, classes)


FAMILIES: dict[str, Callable[[int], nn.Module]] = {
    "residual": residual,
    "depthwise": depthwise,
    "fire": fire,
    "dense": dense,
    "plain": plain,
    "wide": wide,
}
"""Name on the command line -> factory(classes)."""
