"""Five tiny networks of different families for 24x24 images, and what trains them in a second.

Activations are smooth, so that no channel is dead by chance and every factor must be felt. Norms
start from random affine parameters: with weight 1 and bias 0 a wrong mask goes unseen.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = (24, 24)
CLASSES = 4


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ResidualBlock(nn.Module):
    """The sum is activated, so the next shortcut is itself an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _conv(inputs, outputs, 3, stride), nn.SiLU(), _conv(outputs, outputs)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.main(x) + self.shortcut(x))


class InvertedBlock(nn.Module):
    """Depthwise convolution, squeeze and excitation, an in-place sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = 2 * channels
        self.expand = _conv(channels, middle, 1)
        self.depthwise = _conv(middle, middle, 3, groups=middle)
        self.reduce = nn.Conv2d(middle, 4, 1)
        self.excite = nn.Conv2d(4, middle, 1)
        self.project = _conv(middle, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self.depthwise(functional.silu(self.expand(x))))
        squeezed = functional.relu(self.reduce(y.mean((2, 3), keepdim=True)), inplace=True)
        y = self.project(y * torch.sigmoid(self.excite(squeezed)))
        y += x
        return y


class FireBlock(nn.Module):
    """Two branches side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.narrow, self.wide = _conv(inputs, outputs, 1), _conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((functional.gelu(self.narrow(x)), functional.elu(self.wide(x))), 1)


class DenseBlock(nn.Module):
    """Every layer sees all maps before it: eroded maps meet those of the shared prefix."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels + i * growth),
                nn.SiLU(),
                nn.Conv2d(channels + i * growth, growth, 3, padding=1),
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat((x, layer(x)), 1)
        return x


class Pooled(nn.Module):
    """Features, global mean, linear head."""

    def __init__(self, features: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(channels, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features((image - 0.5) / 0.25).mean((2, 3)))


class Attention(nn.Module):
    """A pre-norm transformer block that reads the batch size from its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(n, tokens, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Patches, a class token expanded to the batch, two blocks."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 6, 6)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(0.3 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(Attention(width, 2), Attention(width, 2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches((image - 0.5) / 0.25).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def residual() -> nn.Module:
    return Pooled(
        nn.Sequential(
            _conv(3, 8, 3, 2),
            nn.SiLU(),
            ResidualBlock(8, 8, 1),
            ResidualBlock(8, 12, 2),
            ResidualBlock(12, 12, 1),
        ),
        12,
    )


def depthwise() -> nn.Module:
    return Pooled(
        nn.Sequential(_conv(3, 8, 3, 2), nn.SiLU(), InvertedBlock(8), InvertedBlock(8)), 8
    )


def fire() -> nn.Module:
    return Pooled(
        nn.Sequential(
            _conv(3, 8, 3, 2), nn.Tanh(), FireBlock(8, 6), nn.MaxPool2d(2), FireBlock(12, 8)
        ),
        16,
    )


def dense() -> nn.Module:
    return Pooled(nn.Sequential(_conv(3, 8, 3, 2), DenseBlock(8, 4, 3)), 20)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "residual": residual,
    "depthwise": depthwise,
    "fire": fire,
    "dense": dense,
    "transformer": Transformer,
}


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Stripes in four directions under noise: [N, 3, 24, 24] in [0, 1] and labels [N]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    angle = labels * torch.pi / CLASSES
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    phase = torch.rand(count, generator=generator) * 6
    wave = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y + phase[:, None, None]
    colour = torch.rand(count, 3, 1, 1, generator=generator) * 0.6 - 0.3
    noise = 0.08 * torch.randn(count, 3, 24, 24, generator=generator)
    return (0.5 + torch.sin(wave)[:, None] * colour + noise).clamp(0, 1), labels


def trained(family: str) -> nn.Module:
    """Train one family for a second; the same network every time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = FAMILIES[family]()
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                nn.init.uniform_(module.weight, 0.6, 1.4)
                nn.init.normal_(module.bias, 0.0, 0.3)
        data, labels = images(256, seed=1)
        optimiser = torch.optim.Adam(net.parameters(), 0.01)
        net.train()
        for step in range(64):
            at = torch.arange(step * 32, step * 32 + 32) % len(data)
            loss = functional.cross_entropy(net(data[at]), labels[at])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return net.eval()
