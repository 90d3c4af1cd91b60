"""Each kind of site against arithmetic done by hand, on networks small enough to see through."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from deepfusion_edge.erosion import Site
from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import (
    DEFAULT_STRENGTH,
    erode,
    find_sites,
    graph,
    members_cost,
    prefix_share,
    work_of,
)
from deepfusion_toolkit.surgery.cost import TOUCH
from deepfusion_toolkit.surgery.graph import trace

KINDS = ("skip", "activation", "norm")
SIZE = (4, 4)


def classifier(net: nn.Module, size=SIZE) -> Classifier:
    return Classifier(net, name="by-hand", size=size)


def sites_of(model: Classifier, *kinds: str) -> tuple[Site, ...]:
    return find_sites(trace(model.core, model.size), kinds or KINDS, DEFAULT_STRENGTH)


@pytest.fixture
def draws():
    generator = torch.Generator().manual_seed(11)
    return lambda *shape: torch.rand(*shape, generator=generator)


class LinearSkip(nn.Module):
    """logits = mean over pixels of x + W x."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1, bias=False)

    def maps(self, x):
        return x + self.inner(x)

    def forward(self, x):
        return self.maps(x).mean((2, 3))


class LinearSkipMainFirst(LinearSkip):
    def maps(self, x):
        return self.inner(x) + x


class LinearSkipInPlace(LinearSkip):
    def maps(self, x):
        y = self.inner(x)
        y += x
        return y


@pytest.mark.parametrize("net", [LinearSkip, LinearSkipMainFirst, LinearSkipInPlace])
def test_a_skip_factor_scales_the_shortcut_alone(net, draws):
    model = classifier(net())
    (site,) = sites_of(model)
    assert (site.kind, site.channels, site.strength) == ("skip", 3, DEFAULT_STRENGTH["skip"])
    image, factors = draws(1, 3, *SIZE), 0.5 + draws(5, 3)
    pooled = image.mean((2, 3))
    by_hand = factors * pooled + pooled @ model.core.inner.weight[:, :, 0, 0].T
    torch.testing.assert_close(erode(model, (site,))(image, factors).logits, by_hand)


class Activated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x):
        return self.last(functional.relu(self.first(x)).mean((2, 3)))


def test_an_activation_factor_scales_its_channel(draws):
    model = classifier(Activated())
    (site,) = sites_of(model)
    assert (site.kind, site.channels) == ("activation", 6)
    image, factors = draws(1, 3, *SIZE), draws(5, 6) * 2
    with torch.no_grad():
        maps = functional.relu(model.core.first(image)) * factors[:, :, None, None]
        by_hand = model.core.last(maps.mean((2, 3)))
    seen = erode(model, (site,))(image, factors)
    torch.testing.assert_close(seen.logits, by_hand)
    torch.testing.assert_close(seen.features, maps.mean((2, 3)))


class Normed(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        norms = {"batch": nn.BatchNorm2d(6), "group": nn.GroupNorm(2, 6), "layer": nn.LayerNorm(6)}
        self.first, self.norm, self.last = nn.Conv2d(3, 6, 1), norms[kind], nn.Linear(6, 4)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.bias)
        if kind == "batch":
            nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x):
        y = self.first(x)
        if isinstance(self.norm, nn.LayerNorm):
            y = self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            y = self.norm(y)
        return self.last(y.square().mean((2, 3)))


@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
def test_a_norm_factor_is_a_mask_on_the_affine_weight_and_spares_the_bias(kind, draws):
    model = classifier(Normed(kind))
    (site,) = sites_of(model)
    assert (site.kind, site.channels) == ("norm", 6)
    image, factors = draws(1, 3, *SIZE), (draws(5, 6) > 0.4).float()
    seen = erode(model, (site,))(image, factors).logits
    weight = model.core.norm.weight
    whole = weight.detach().clone()
    for row, mask in zip(seen, factors, strict=True):
        with torch.no_grad():
            weight.copy_(whole * mask)
            by_hand = model.core(image)[0]
            weight.copy_(whole)
        torch.testing.assert_close(row, by_hand)


class ActivatedShortcut(nn.Module):
    """A shortcut that is itself an activation: logits = mean(a * r + W (r)), r = relu(x) * b."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1, bias=False)

    def forward(self, x):
        r = functional.relu(x)
        return (r + self.inner(r)).mean((2, 3))


@pytest.mark.parametrize("turned", [False, True], ids=["graph-order", "skip-first"])
def test_a_shortcut_that_is_an_eroded_activation_keeps_both_factors(turned, draws):
    # The trap: scaling the sum's operand as traced, or rewiring only the activation's other users,
    # loses one of the two while all-ones factors still agree.
    model = classifier(ActivatedShortcut())
    sites = sites_of(model)
    assert [s.kind for s in sites] == ["activation", "skip"]
    image, on_activation, on_skip = draws(1, 3, *SIZE), 0.5 + draws(5, 3), 0.5 + draws(5, 3)
    pooled = image.mean((2, 3)) * on_activation
    by_hand = on_skip * pooled + pooled @ model.core.inner.weight[:, :, 0, 0].T
    columns = [on_activation, on_skip]
    if turned:
        sites, columns = sites[::-1], columns[::-1]
    seen = erode(model, sites)(image, torch.cat(columns, 1))
    torch.testing.assert_close(seen.logits, by_hand)


class Gated(nn.Module):
    """Squeeze and excitation, its inner activation before a sigmoid or a hard sigmoid."""

    def __init__(self, gate) -> None:
        super().__init__()
        self.gate = gate
        self.first = nn.Conv2d(3, 6, 1)
        self.down, self.up = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)

    def forward(self, x):
        y = functional.relu(self.first(x))
        z = functional.relu(self.down(y.mean((2, 3), keepdim=True)))
        return (y * self.gate(self.up(z))).mean((2, 3))


@pytest.mark.parametrize("gate", [torch.sigmoid, functional.hardsigmoid])
def test_activations_inside_a_gate_are_left_out(gate):
    assert [s.channels for s in sites_of(classifier(Gated(gate)))] == [6]
    assert [s.channels for s in sites_of(classifier(Gated(torch.exp)))] == [6, 2]


class Sums(nn.Module):
    """Sums that are no residuals: a constant, an equal pair, two equally deep branches, a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.shift = nn.Parameter(torch.rand(3, 1, 1))

    def forward(self, x):
        x = x + 1.0 + self.shift
        x = self.left(x) + self.right(x)
        x = x + x
        x = x + x.mean((2, 3), keepdim=True)
        return x.mean((2, 3))


def test_sums_without_a_shortcut_are_no_sites():
    with pytest.raises(ModelError, match=r"no site of kind activation or norm or skip to erode"):
        sites_of(classifier(Sums()))


def test_only_the_wanted_kinds_are_found_with_their_strength():
    model = classifier(ActivatedShortcut())
    traced = trace(model.core, model.size)
    (site,) = find_sites(traced, ("skip",), {"skip": 0.15})
    assert (site.kind, site.strength) == ("skip", 0.15)
    with pytest.raises(ModelError, match=r"no site of kind norm to erode"):
        find_sites(traced, ("norm",), DEFAULT_STRENGTH)


class Folded(nn.Module):
    """Two halves of each image become rows of the batch, as windows and patches do.

    logits = mean over pixels and halves of W relu(half), each half with its own weight.
    """

    def __init__(self, before: bool = False) -> None:
        super().__init__()
        self.inner, self.before = nn.Conv2d(3, 5, 1, bias=False), before
        nn.init.uniform_(
            self.inner.weight, 0.1, 1.0
        )  # images are not negative: no closed rectifier
        self.halves = nn.Parameter(torch.tensor([1.0, 3.0])[:, None, None, None])

    def folded(self, x):
        return x.reshape(-1, 3, 2, 2, 4).permute(0, 2, 1, 3, 4).reshape(-1, 3, 2, 4)

    def forward(self, x):
        y = functional.relu(self.inner(self.folded(functional.silu(x) if self.before else x)))
        return (y.unflatten(0, (-1, 2)) * self.halves).mean((1, 3, 4))


class FoldedHalvesFirst(Folded):
    """The rows of one image lie apart: first halves of all images, then second halves."""

    def folded(self, x):
        return x.reshape(-1, 3, 2, 2, 4).permute(2, 0, 1, 3, 4).reshape(-1, 3, 2, 4)

    def forward(self, x):
        y = functional.relu(self.inner(self.folded(x)))
        return (y.unflatten(0, (2, -1)) * self.halves[:, None]).mean((0, 3, 4))


def test_a_factor_reaches_all_rows_of_its_image(draws):
    model = classifier(Folded())
    (site,) = sites_of(model)
    assert (site.kind, site.channels) == ("activation", 5)
    images, factors = draws(4, 3, *SIZE), 0.5 + draws(4, 5)
    plain = model(images)
    assert len(plain.unique()) == plain.numel()
    eroded = erode(model, (site,))
    torch.testing.assert_close(eroded(images, factors).logits, factors * plain)
    torch.testing.assert_close(eroded(images[:1], factors).logits, factors * plain[:1])


def test_what_is_computed_once_is_repeated_where_rows_are_folded(draws):
    model = classifier(Folded(before=True))
    sites = sites_of(model)
    assert [s.channels for s in sites] == [3, 5]
    image, factors = draws(1, 3, *SIZE), 0.5 + draws(4, 8)
    eroded = erode(model, sites)
    alone = torch.cat([eroded(image, row[None]).logits for row in factors])
    torch.testing.assert_close(eroded(image, factors).logits, alone)
    assert float(alone.std(0).min()) > 1e-3


def test_where_the_rows_of_an_image_lie_apart_nothing_is_eroded(draws):
    images = draws(4, 3, *SIZE)
    net = FoldedHalvesFirst()
    torch.testing.assert_close(net(images[:1]), net(images)[:1])
    with pytest.raises(ModelError, match="no site"):
        sites_of(classifier(FoldedHalvesFirst()))


class Stages(nn.Module):
    """Two convolutions, an activation between them, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.silu(self.one(x))
        x = functional.silu(self.two(x))
        return self.head(x.mean((2, 3)))


def test_prefix_share_is_what_a_hand_count_says():
    model = classifier(Stages(), (16, 16))
    first, second = sites_of(model)
    one, two, head = 8 * 16 * 16 * 3 * 9, 8 * 8 * 8 * 2 * 9, 8 * 5
    total = one + two + head
    assert prefix_share(erode(model, (first,)).graph_module) == pytest.approx(one / total)
    late = erode(model, (second,)).graph_module
    assert prefix_share(late) == pytest.approx((one + two) / total)
    assert prefix_share(trace(model.core, model.size).module) == 1.0


def test_the_cost_of_erosion_is_counted_by_hand_too():
    model = classifier(Stages(), (16, 16))
    traced, sites = trace(model.core, model.size), sites_of(model)
    total = 8 * 16 * 16 * 3 * 9 + 8 * 8 * 8 * 2 * 9 + 8 * 5
    both, late = work_of(traced, sites), work_of(traced, sites[1:])
    assert both.eroded == pytest.approx(TOUCH * (8 * 16 * 16 + 8) / total)  # the second: pooled
    assert late.eroded == pytest.approx(TOUCH * 8 / total)
    for work, some in ((both, sites), (late, sites[1:])):
        assert work.shared == pytest.approx(prefix_share(erode(model, some).graph_module))
        assert work.cost(8) == pytest.approx(members_cost(8, work.shared) + 8 * work.eroded)


def test_a_norm_touches_its_values_twice():
    model = classifier(Normed("batch"))
    found = work_of(trace(model.core, model.size), sites_of(model))
    assert found.eroded == pytest.approx(TOUCH * 2 * 6 * 16 / (6 * 16 * 3 + 6 * 4))


def test_what_cannot_be_eroded_is_refused_in_one_line():
    model = classifier(Stages(), (16, 16))
    (site, _) = sites_of(model)
    other = Site(site.name, site.kind, site.channels + 1, site.strength)
    elsewhere = Site("activation:nowhere", "activation", 8, 0.1)
    for sites, said in (
        ((), "without sites"),
        ((other,), "the model has 8 channels"),
        ((elsewhere,), "the model has no such site"),
    ):
        with pytest.raises(ModelError, match=said) as caught:
            erode(model, sites)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="no layer 'nowhere'"):
        erode(model, (site,), taps=("nowhere",))


def test_factors_or_images_of_a_wrong_shape_are_refused(draws):
    model = classifier(Stages(), (16, 16))
    eroded = erode(model, sites_of(model))
    with pytest.raises(ValueError, match="wanted 16 columns"):
        eroded(draws(1, 3, 16, 16), torch.ones(2, 15))
    with pytest.raises(ValueError, match="2 rows of factors cannot be shared by 3 images"):
        eroded(draws(3, 3, 16, 16), torch.ones(2, 16))


class NotTraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        pooled = x.mean((2, 3))
        return self.head(pooled) if float(pooled.sum()) > 0 else pooled[:, :1].repeat(1, 4)


def test_control_flow_on_data_is_refused_in_one_line():
    with pytest.raises(ModelError, match=r"cannot be traced by torch\.export") as caught:
        trace(NotTraceable(), SIZE)
    assert "\n" not in str(caught.value)


def test_a_network_is_exported_once_as_long_as_its_tensors_are_the_same(draws, monkeypatch):
    exported = []
    export = graph.export_program

    def counting(*args, **more):
        exported.append(args)
        return export(*args, **more)

    monkeypatch.setattr(graph, "export_program", counting)
    net, pixels = LinearSkip(), draws(2, 3, *SIZE)
    model = classifier(net)
    erode(model, sites_of(model))  # changes its own copy of the graph alone
    assert torch.equal(trace(model.core, SIZE).module(pixels), net(pixels))
    assert len(exported) == 1
    with torch.no_grad():
        net.inner.weight.mul_(2)  # in place, as training does
    assert torch.equal(trace(model.core, SIZE).module(pixels), net(pixels))
    assert len(exported) == 1
    net.inner.weight = nn.Parameter(draws(3, 3, 1, 1))
    assert torch.equal(trace(model.core, SIZE).module(pixels), net(pixels))
    trace(model.core, (6, 6))
    assert len(exported) == 3
