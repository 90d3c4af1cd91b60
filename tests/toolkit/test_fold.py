"""Folding makes networks cheaper and nothing else: same scores, same gradients, exact erosion."""

import copy

import pytest
import torch
from torch import nn

from deepfusion_edge.erosion import sample
from deepfusion_toolkit.attacks import Settings, prepare
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import erode, find_sites
from deepfusion_toolkit.surgery.fold import fold
from deepfusion_toolkit.surgery.graph import aten, trace

SIZE = (9, 12)


def norm(channels, *, affine=True):
    """A batch norm that has seen images and whose parameters are felt."""
    made = nn.BatchNorm2d(channels, affine=affine)
    made.running_mean.uniform_(-0.5, 0.5)
    made.running_var.uniform_(0.3, 3.0)
    if affine:
        nn.init.uniform_(made.weight, -1.5, 1.5)
        nn.init.uniform_(made.bias, -0.5, 0.5)
    return made


class Headed(nn.Module):
    """The parts under test, an activation to erode, a linear head."""

    def __init__(self, *parts, channels=4):
        super().__init__()
        self.parts, self.head = nn.Sequential(*parts), nn.Linear(channels, 3)

    def forward(self, image):
        return self.head(nn.functional.silu(self.parts(4 * image - 2)).mean((2, 3)))


class Twice(nn.Module):
    """One convolution's result goes through a norm and past it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), norm(4)

    def forward(self, x):
        y = self.conv(x)
        return y + self.norm(y)


class Shared(nn.Module):
    """One convolution's weights, two norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 4, 3), norm(4), norm(4)

    def forward(self, x):
        return self.one(self.conv(x)) * self.other(self.conv(x.flip(-1)))


class Padded(nn.Module):
    """A padding before a convolution, or two."""

    def __init__(self, sides, *, padding=0, twice=False, **how):
        super().__init__()
        self.sides, self.how, self.twice = sides, how, twice
        self.conv, self.other = nn.Conv2d(3, 4, 3, padding=padding), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        wide = nn.functional.pad(x, self.sides, **self.how)
        return self.conv(wide) + self.other(wide) if self.twice else self.conv(wide)


# parts -> norms that fold, paddings that stay
NETS = {
    "no bias": (lambda: (nn.Conv2d(3, 4, 3, bias=False), norm(4)), 1, 0),
    "bias": (lambda: (nn.Conv2d(3, 4, 3, stride=2, padding=1), norm(4)), 1, 0),
    "affine off": (lambda: (nn.Conv2d(3, 4, 3), norm(4, affine=False)), 1, 0),
    "groups": (
        lambda: (nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3, groups=2, dilation=2), norm(4)),
        1,
        0,
    ),
    "depthwise": (lambda: (nn.Conv2d(3, 12, 3, groups=3), norm(12), nn.Conv2d(12, 4, 1)), 1, 0),
    "two norms, the first eroded": (lambda: (nn.Conv2d(3, 4, 3), norm(4), norm(4)), 1, 0),
    "two norms": (lambda: (nn.Conv2d(3, 4, 3), norm(4, affine=False), norm(4)), 2, 0),
    "padding same": (lambda: (nn.Conv2d(3, 4, 3, padding="same"), norm(4)), 1, 0),
    "norm first": (lambda: (norm(3), nn.Conv2d(3, 4, 3)), 0, 0),
    "norm behind an activation": (lambda: (nn.Conv2d(3, 4, 3), nn.Tanh(), norm(4)), 0, 0),
    "transposed": (lambda: (nn.ConvTranspose2d(3, 4, 3), norm(4)), 0, 0),
    "own statistics": (
        lambda: (
            nn.Conv2d(3, 4, 1),
            nn.Tanh(),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4, track_running_stats=False),
        ),
        0,
        0,
    ),
    "used twice": (lambda: (Twice(),), 0, 0),
    "shared weights": (lambda: (Shared(),), 2, 0),
    "even zeros": (lambda: (Padded((1, 1, 2, 2)), norm(4)), 1, 0),
    "even zeros and its own": (lambda: (Padded((1, 1, 2, 2), padding=(2, 1)), norm(4)), 1, 0),
    "asymmetric": (lambda: (Padded((0, 1, 0, 1)), norm(4)), 1, 1),
    "asymmetric in width": (lambda: (Padded((0, 1, 1, 1)), norm(4)), 1, 1),
    "asymmetric in height": (lambda: (Padded((1, 1, 1, 0)), norm(4)), 1, 1),
    "only one side": (lambda: (Padded((1, 1)), norm(4)), 1, 1),
    "cut away": (lambda: (Padded((-1, -1, -1, -1)), norm(4)), 1, 1),
    "reflected": (lambda: (Padded((1, 1, 1, 1), mode="reflect"), norm(4)), 1, 1),
    "reflected by itself": (
        lambda: (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), norm(4)),
        1,
        1,
    ),
    "of ones": (lambda: (Padded((1, 1, 1, 1), value=1.0), norm(4)), 1, 1),
    "padding used twice": (lambda: (Padded((1, 1, 1, 1), twice=True), norm(4)), 0, 1),
}


def classifier(parts):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Classifier(Headed(*parts()), name="net", size=SIZE)


def images(count=3):
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def count(module, *targets):
    return sum(node.target in targets for node in module.graph.nodes)


def seen(model, factors):
    """Scores, and the gradient of something that all of them take part in."""
    leaf = images().requires_grad_(True)
    logits = model(leaf, factors).logits
    (gradient,) = torch.autograd.grad((logits * torch.tensor([1.0, -2.0, 3.0])).sum(), leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize("name", NETS)
def test_scores_and_gradients_stay(name):
    parts, folded, paddings = NETS[name]
    model = classifier(parts)
    before = copy.deepcopy(model.core.state_dict())
    kinds = ("activation", "norm")
    sites = find_sites(trace(model.core, SIZE), kinds, {"activation": 0.3, "norm": 0.2})
    plain, fast = erode(model, sites), erode(model, sites)
    norms = count(plain.graph_module, aten.batch_norm.default)
    assert fold(fast.graph_module) == folded
    assert count(fast.graph_module, aten.batch_norm.default) == norms - folded
    assert count(fast.graph_module, aten.pad.default, aten.constant_pad_nd.default) == paddings
    ones = torch.ones(3, plain.width)
    drawn = torch.from_numpy(sample(sites, seed=1, stream=2, members=3))
    assert not torch.equal(drawn, ones)
    for factors in (ones, drawn):
        for was, now in zip(seen(plain, factors), seen(fast, factors), strict=True):
            assert was.abs().max() > 1e-4
            torch.testing.assert_close(now, was, rtol=1e-4, atol=1e-5)
    for key, tensor in model.core.state_dict().items():
        assert torch.equal(tensor, before[key])
        assert tensor.stride() == before[key].stride()


def test_an_eroded_norm_is_exact_after_folding():
    """Where the factor is 0, its bias is left, and nothing of the image."""
    model = classifier(NETS["bias"][0])
    sites = find_sites(trace(model.core, SIZE), ("norm",), {"norm": 0.5})
    fast = erode(model, sites)
    assert fold(fast.graph_module) == 1
    logits = fast(images(), torch.zeros(3, 4)).logits
    shift = nn.functional.silu(model.core.parts[1].bias)
    torch.testing.assert_close(logits, model.core.head(shift).expand(3, 3))


def test_weights_are_channels_last():
    fast = erode(model := classifier(NETS["groups"][0]), sites_of(model))
    fold(fast.graph_module)
    for node in fast.graph_module.graph.nodes:
        if node.target == aten.conv2d.default:
            weight = getattr(fast.graph_module, node.args[1].target)
            assert weight.is_contiguous(memory_format=torch.channels_last)


def sites_of(model):
    return find_sites(trace(model.core, SIZE), ("activation",), {"activation": 0.1})


@pytest.mark.parametrize("erosion", [0.0, 1.0])
def test_the_tiny_families_prepared_for_an_attack_are_the_same_nets(tiny, erosion):
    """Every norm that follows a convolution is gone, and nobody can tell."""
    (fast,) = prepare([tiny], Settings(erosion=erosion))
    image = torch.rand(3, 3, *tiny.size, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        logits = fast(image, torch.ones(3, fast.width)).logits
        torch.testing.assert_close(logits, tiny(image), rtol=1e-4, atol=1e-4)
    left = count(fast.graph_module, aten.batch_norm.default)
    assert left == {"dense": 3}.get(tiny.name, 0)  # norms before their convolutions
