"""Damping keeps every value and mixes the gradients of shortcut and branch as asked."""

import pytest
import torch
from torch import nn

from deepfusion_toolkit.attacks import Settings, prepare
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import erode, find_sites
from deepfusion_toolkit.surgery.damp import damp
from deepfusion_toolkit.surgery.graph import trace

SIZE = (6, 6)


class Residual(nn.Module):
    """``head(s + b)``, branch b on either side of the sum; the shortcut with one convolution."""

    def __init__(self, *, down, swapped, inplace):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 1))
        self.shortcut = nn.Conv2d(4, 4, 1) if down else nn.Identity()
        self.head, self.swapped, self.inplace = nn.Linear(4, 3), swapped, inplace

    def halves(self, image):
        x = torch.tanh(self.stem(2 * image - 1))
        return self.shortcut(x), self.branch(x)

    def forward(self, image):
        shortcut, branch = self.halves(image)
        if self.inplace:
            branch += shortcut
            return self.finish(branch)
        return self.finish(branch + shortcut if self.swapped else shortcut + branch)

    def finish(self, x):
        return self.head(torch.tanh(x).mean((2, 3)))


class Chain(nn.Module):
    """Sums, but no shortcut: two like branches, a sum with itself, a constant, a number."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.shift, self.head = nn.Parameter(torch.rand(4, 1, 1)), nn.Linear(4, 3)

    def forward(self, image):
        x = torch.tanh(self.left(image) + self.right(image))
        return self.head((x + x + self.shift + 1).mean((2, 3)))


def made(make, **how):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Classifier(make(**how), name="net", size=SIZE)


def eroded(model):
    sites = find_sites(trace(model.core, SIZE), ("activation",), {"activation": 0.0})
    return erode(model, sites)


def gradient_of(net):
    leaf = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    logits = net(leaf)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), leaf)[0]


def by_hand(core, share):
    """Straight through the branch's value, ``share`` of its gradient."""

    def net(image):
        shortcut, branch = core.halves(image)
        return core.finish(shortcut + share * branch + (1 - share) * branch.detach())

    return net


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(
    ("swapped", "inplace"), [(False, False), (True, False), (True, True)], ids=str
)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_gradient_is_mixed_by_hand(down, swapped, inplace, share):
    model = made(Residual, down=down, swapped=swapped, inplace=inplace)
    damped = eroded(model)
    assert damp(damped.graph_module, share) == 1
    ones = torch.ones(2, damped.width)
    logits, gradient = gradient_of(lambda image: damped(image, ones).logits)
    plain, undamped = gradient_of(model)
    torch.testing.assert_close(logits, plain, rtol=0, atol=1e-7)
    _, wanted = gradient_of(by_hand(model.core, share))
    torch.testing.assert_close(gradient, wanted)
    assert not torch.allclose(gradient, undamped, rtol=1e-2)


def test_a_net_without_shortcuts_has_nothing_to_damp():
    assert damp(eroded(made(Chain)).graph_module, 0.5) == 0


def test_a_transformers_two_branches_a_block_are_damped(tiny):
    sums = {"residual": 3, "depthwise": 2, "fire": 0, "dense": 0, "transformer": 4}
    sites = find_sites(trace(tiny.core, tiny.size), ("activation",), {"activation": 0.1})
    assert damp(erode(tiny, sites).graph_module, 0.5) == sums[tiny.name]


def test_prepared_surrogates_are_damped_with_erosion_on():
    """The multiplication on the shortcut does not make it the branch."""
    model = made(Residual, down=False, swapped=False, inplace=False)
    (surrogate,) = prepare([model], Settings(residual=0.3, feature_weight=0.0))
    assert surrogate.sites[0].kind == "skip"
    ones = torch.ones(2, surrogate.width)
    logits, gradient = gradient_of(lambda image: surrogate(image, ones).logits)
    torch.testing.assert_close(logits, gradient_of(model)[0])
    torch.testing.assert_close(gradient, gradient_of(by_hand(model.core, 0.3))[1])
    (whole,) = prepare([model], Settings(residual=1.0, feature_weight=0.0))
    undamped = gradient_of(lambda image: whole(image, ones).logits)[1]
    torch.testing.assert_close(undamped, gradient_of(model)[1])
