"""A factor waits until its channel is pooled, and only where the result is the same by hand."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from deepfusion_edge.erosion import Kind, Site, sample
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import DEFAULT_STRENGTH, ErodedModel, erode, find_sites
from deepfusion_toolkit.surgery.graph import trace
from deepfusion_toolkit.surgery.place import place_of
from deepfusion_toolkit.surgery.sites import locate

CHANNELS = 4
SIZE = (4, 4)  # as many as channels: a dimension that is mistaken is no error of shapes
MEMBERS = 3
POOLED = {
    "average": lambda y: functional.avg_pool2d(y, 2),
    "average-padded": lambda y: functional.avg_pool2d(y, 3, 2, 1),
    "average-uncounted": lambda y: functional.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
    "maximum": lambda y: functional.max_pool2d(y, 3, 2, 1),
    "global": lambda y: functional.adaptive_avg_pool2d(y, 1),
    "mean": lambda y: y.mean((2, 3)),
    "mean-of-rows": lambda y: y.mean(-2, keepdim=True),
    "two": lambda y: functional.max_pool2d(y, 2).mean((2, 3), keepdim=True),
}
KEPT = {
    "smooth-between": lambda y: functional.gelu(y).mean((2, 3)),
    "bounded-between": lambda y: functional.relu6(3 * y).mean((2, 3)),
    "other-reader": lambda y: torch.cat((y.mean((2, 3)), y[:, :, 0, 0]), 1),
    "across-channels": lambda y: y.mean(1),
    "all-of-it": lambda y: y.mean((1, 2, 3), keepdim=True),
    "no-smaller": lambda y: functional.avg_pool2d(y, 3, 1, 1),
    "sharpened": lambda y: functional.lp_pool2d(y, 2, 2),
    "channels-last": lambda y: functional.avg_pool2d(y, 2),  # see Net
}


class Net(nn.Module):
    """logits = W pool(f * gelu(conv(image))), and for f the factors where there are any."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.last, self.pool = name == "channels-last", {**POOLED, **KEPT}[name]
        self.first = nn.Conv2d(3, CHANNELS, 1)
        wide = self.pool(torch.rand(1, CHANNELS, *SIZE)).flatten(1).shape[1]
        self.head = nn.Linear(wide, 5)

    def forward(self, image: Tensor, factors: Tensor | None = None) -> Tensor:
        x = self.first(2 * image - 1)
        y = functional.gelu(x.permute(0, 2, 3, 1) if self.last else x)
        if factors is not None:
            y = y * (factors[:, None, None] if self.last else factors[:, :, None, None])
        return self.head(self.pool(y).flatten(1))


@functools.cache
def eroded(name: str, *, tapped: bool = False) -> tuple[Net, ErodedModel, bool]:
    """The network, its first activation eroded, and whether the factor waits for the pooling."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(name).eval()
    model = Classifier(net, name=name, size=SIZE)
    traced = trace(model.core, SIZE)
    site = find_sites(traced, ("activation",), DEFAULT_STRENGTH)[0]
    (found,) = locate(traced, (site,))
    taps = (found.node.name,) if tapped else ()
    seen = (found.node,) if tapped else ()
    return net, erode(model, (site,), taps), place_of(traced, found, seen) is not found.node


factors_of = st.lists(
    st.sampled_from([0.0, 0.3, 1.0, 1.02, 4.0]),
    min_size=MEMBERS * CHANNELS,
    max_size=MEMBERS * CHANNELS,
)


@pytest.mark.parametrize("name", [*POOLED, *KEPT])
@given(values=factors_of, seed=st.integers(0, 9))
@settings(max_examples=10, deadline=None)
def test_the_result_is_that_of_a_factor_on_the_activation(name, values, seed):
    net, model, moved = eroded(name)
    assert moved == (name in POOLED)
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
    factors = torch.tensor(values).reshape(MEMBERS, CHANNELS)
    with torch.no_grad():
        torch.testing.assert_close(model(image, factors).logits, net(image, factors))


@pytest.mark.parametrize("name", ["mean", "two"])
def test_a_tap_sees_the_eroded_activation(name):
    net, model, moved = eroded(name, tapped=True)
    assert not moved
    image, factors = torch.rand(1, 3, *SIZE), torch.rand(MEMBERS, CHANNELS)
    with torch.no_grad():
        seen = model(image, factors)
        by_hand = functional.gelu(net.first(2 * image - 1)) * factors[:, :, None, None]
        torch.testing.assert_close(seen.taps[0], by_hand)
        torch.testing.assert_close(seen.logits, net(image, factors))


def test_the_features_are_those_of_a_factor_on_the_activation():
    net, model, moved = eroded("mean")
    assert moved
    image, factors = torch.rand(2, 3, *SIZE), torch.rand(2, CHANNELS)
    with torch.no_grad():
        by_hand = net.pool(functional.gelu(net.first(2 * image - 1)) * factors[:, :, None, None])
        torch.testing.assert_close(model(image, factors).features, by_hand)


def test_the_images_gradient_is_that_of_a_factor_on_the_activation():
    net, model, moved = eroded("maximum")
    assert moved
    image = torch.rand(2, 3, *SIZE, requires_grad=True)
    factors = torch.tensor([[0.0, 1.0, 1.25, 0.5]] * 2)
    (mine,) = torch.autograd.grad(model(image, factors).logits.square().sum(), image)
    (theirs,) = torch.autograd.grad(net(image, factors).square().sum(), image)
    assert float(theirs.abs().max()) > 0
    torch.testing.assert_close(mine, theirs)


def test_it_needs_factors_that_are_not_negative():
    net, model, moved = eroded("maximum")
    assert moved
    image, factors = torch.rand(1, 3, *SIZE), -torch.ones(1, CHANNELS)
    with torch.no_grad():
        assert not torch.allclose(model(image, factors).logits, net(image, factors))


@given(
    kind=st.sampled_from(["skip", "activation", "norm"]),
    strength=st.floats(0, 0.999),
    seed=st.integers(0, 2**53 - 1),
)
def test_no_erosion_draws_a_negative_factor(kind: Kind, strength, seed):
    drawn = sample((Site("s", kind, 64, strength),), seed=seed, stream=0, members=4)
    assert float(drawn.min()) >= 0


class Rows(nn.Module):
    """Two halves of each image are rows of the batch, and pooled there."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        halves = x.reshape(-1, 3, 2, 2, 4).permute(0, 2, 1, 3, 4).reshape(-1, 3, 2, 4)
        pooled = functional.relu(self.inner(halves)).mean((2, 3))
        return pooled.unflatten(0, (-1, 2)).mean(1)


def test_a_factor_behind_a_pooling_reaches_all_rows_of_its_image():
    model = Classifier(Rows(), name="rows", size=SIZE)
    traced = trace(model.core, SIZE)
    sites = find_sites(traced, ("activation",), DEFAULT_STRENGTH)
    (found,) = locate(traced, sites)
    assert place_of(traced, found) is not found.node
    image, factors = torch.rand(2, 3, *SIZE), torch.rand(2, CHANNELS)
    with torch.no_grad():
        by_hand = factors * model(image)
        torch.testing.assert_close(erode(model, sites)(image, factors).logits, by_hand)
