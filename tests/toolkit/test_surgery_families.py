"""What must hold for every network, held on five tiny trained families."""

import copy

import pytest
import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from deepfusion_edge.erosion import Site, identity, sample
from deepfusion_toolkit.surgery import (
    DEFAULT_STRENGTH,
    ErodedModel,
    erode,
    find_sites,
    insert,
    members_cost,
    prefix_share,
)
from deepfusion_toolkit.surgery.graph import following_batches, trace
from tests.toolkit.tiny_nets import CLASSES, images

KINDS = ("skip", "activation", "norm")
MEMBERS = 7  # a number that is no extent of any of these networks
EXPECTED = {  # skips, activations, norms
    "residual": (3, 7, 8),
    "depthwise": (2, 5, 7),
    "fire": (0, 5, 5),
    "dense": (0, 3, 4),
    "transformer": (4, 2, 5),
}


_found: dict[str, tuple[Site, ...]] = {}
_eroded: dict[tuple[str, tuple[Site, ...]], ErodedModel] = {}


def sites_of(model) -> tuple[Site, ...]:
    if model.name not in _found:
        traced = trace(model.core, model.size)
        _found[model.name] = find_sites(traced, KINDS, DEFAULT_STRENGTH)
    return _found[model.name]


def eroded_at(model, sites):
    """Trace a family once for each choice of sites: the tests only read."""
    key = (model.name, sites)
    if key not in _eroded:
        _eroded[key] = erode(model, sites)
    return _eroded[key]


def rows(sites, members: int) -> Tensor:
    """Strong erosion of every channel, no two factors alike."""
    ones = torch.from_numpy(identity(sites, members))
    return ones + 0.5 * (torch.rand(ones.shape, generator=torch.Generator().manual_seed(7)) - 0.5)


def test_training_took(tiny):
    data, labels = images(200, seed=5)
    with torch.no_grad():
        assert float((tiny(data).argmax(1) == labels).float().mean()) > 0.85


def test_every_site_is_found(tiny):
    found = [site.kind for site in sites_of(tiny)]
    assert tuple(found.count(kind) for kind in KINDS) == EXPECTED[tiny.name]


def test_all_ones_give_the_original_output(tiny):
    data, _ = images(6, seed=2)
    sites = sites_of(tiny)
    eroded = eroded_at(tiny, sites)
    with torch.no_grad():
        plain = tiny(data)
        together = eroded(data, torch.from_numpy(identity(sites, 6)))
        alone = eroded(data[:1], torch.from_numpy(identity(sites, 3)))
    torch.testing.assert_close(together.logits, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.logits, plain[:1].expand(3, CLASSES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("late", [False, True], ids=["all-sites", "last-sites"])
def test_members_together_equal_members_one_by_one(tiny, late):
    data, _ = images(1, seed=4)
    sites = sites_of(tiny)[-3:] if late else sites_of(tiny)
    factors = rows(sites, 5)
    eroded = eroded_at(tiny, sites)
    with torch.no_grad():
        together = eroded(data, factors)
        one_by_one = [eroded(data, row[None]) for row in factors]
        spread = eroded(data.expand(5, -1, -1, -1), factors)
    assert together.logits.shape == (5, CLASSES)
    assert float(together.logits.std(0).min()) > 1e-4, "members differ"
    for field in (0, 1):
        alone = torch.cat([seen[field] for seen in one_by_one])
        torch.testing.assert_close(together[field], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together[field], spread[field], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("late", [1, 3, 99], ids=["last-site", "last-sites", "all-sites"])
def test_several_images_equal_each_alone(tiny, late):
    data, _ = images(3, seed=4)
    sites = sites_of(tiny)[-late:]
    factors = rows(sites, 15)
    several, alone = erode(tiny, sites, several=True), eroded_at(tiny, sites)
    with torch.no_grad():
        together, spread = several(data, factors), alone(data, factors)
        one_by_one = [alone(data[i : i + 1], factors[5 * i : 5 * i + 5]) for i in range(3)]
        single = several(data[:1], factors[:5])
    for field in (0, 1):
        apart = torch.cat([seen[field] for seen in one_by_one])
        torch.testing.assert_close(together[field], apart, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(spread[field], apart, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(single[field], apart[:5], rtol=1e-4, atol=1e-5)


def test_several_images_share_what_is_before_the_first_site(tiny):
    sites = sites_of(tiny)[-2:]
    eroded = erode(tiny, sites)
    data, _ = images(3, seed=4)

    def operations(members):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            eroded(data, rows(sites, 3 * members))
        return counter.get_total_flops()

    expected = members_cost(4, prefix_share(eroded.graph_module))
    assert expected < 4
    assert operations(4) / operations(1) == pytest.approx(expected, rel=1e-3)


def felt(eroded, sites) -> Tensor:
    """How much each factor [F] moves a random projection of the logits, the most over 16 images."""
    data, _ = images(16, seed=9)
    factors = torch.from_numpy(identity(sites, 16)).requires_grad_()
    logits = eroded(data, factors).logits
    most = torch.zeros(factors.shape[1])
    for seed in range(2):
        direction = torch.randn(CLASSES, generator=torch.Generator().manual_seed(seed))
        (moved,) = torch.autograd.grad((logits @ direction).sum(), factors, retain_graph=True)
        most = torch.maximum(most, moved.abs().amax(0))
    return most


def test_every_factor_changes_the_output(tiny):
    # Traps: a shortcut that is itself an eroded activation lost its scale, and so would a site
    # whose multiplication is not read by all users; all-ones factors agree all the same.
    sites = sites_of(tiny)
    moved = felt(eroded_at(tiny, sites), sites)
    at = 0
    for site in sites:
        weakest = float(moved[at : at + site.channels].min())
        assert weakest > 1e-6, f"{site.name}: a factor changes nothing"
        at += site.channels


def test_a_site_left_out_is_noticed(tiny, monkeypatch):
    # the guard of the test above: a surgery that forgets to rewire one site
    sites, whole = sites_of(tiny), insert._multiply

    def forgetful(traced, found, place, column):
        if found.name == sites[-1].name:
            return place
        return whole(traced, found, place, column)

    monkeypatch.setattr(insert, "_multiply", forgetful)
    moved = felt(erode(tiny, sites), sites)
    assert float(moved[-sites[-1].channels :].max()) == 0.0
    assert float(moved[: -sites[-1].channels].min()) > 1e-6


class Shapes(fx.Interpreter):
    """Run a graph and note the shape of each node's value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node):
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op == "call_function" and value.ndim > 0:
            self.shapes[n.name] = tuple(value.shape)
        return value


def test_everything_before_the_first_site_is_computed_once(tiny):
    sites = sites_of(tiny)[-2:]
    first = sites[0].name.split(":")[1]
    eroded = erode(tiny, sites)
    # what surgery inserts has no traced value; the network's own nodes have one
    names = [n.name for n in eroded.graph_module.graph.nodes if "val" in n.meta]
    before = names[: names.index(first)]
    run = Shapes(eroded.graph_module)
    data, _ = images(1, seed=3)
    with torch.no_grad():
        run.run(data, rows(sites, MEMBERS))
    prefix = [run.shapes[name] for name in before if name in run.shapes]
    assert len(prefix) > 5
    assert not any(MEMBERS in shape for shape in prefix)
    assert any(shape[0] == MEMBERS for shape in run.shapes.values())


def test_without_widening_concatenations_fail(tiny, monkeypatch):
    # follow_members widens prefix maps that meet eroded ones in an operator that does not broadcast
    sites = sites_of(tiny)
    late = [s for s in sites if s.kind == "activation"][1:]
    data, _ = images(1, seed=3)
    factors = rows(late, 4)
    whole = erode(tiny, late)(data, factors).logits
    assert whole.shape == (4, CLASSES)
    monkeypatch.setattr(insert, "follow_members", lambda *_, **__: None)
    careless = erode(tiny, late)
    if tiny.name == "dense":
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            careless(data, factors)
    elif tiny.name == "transformer":
        with pytest.raises(RuntimeError, match=r"invalid for input|shape"):
            erode(tiny, sites[:1])(data, rows(sites[:1], 4))
    else:
        torch.testing.assert_close(careless(data, factors).logits, whole)


def test_weights_are_shared_and_gradients_flow(tiny_residual):
    model = tiny_residual
    sites = sites_of(model)
    eroded = erode(model, sites)
    data, _ = images(3, seed=8)
    data.requires_grad_()
    model.core.requires_grad_(True)
    theirs = {id(p) for p in eroded.parameters()}
    assert {id(p) for p in model.core.parameters()} == theirs
    eroded(data, rows(sites, 3)).logits.square().sum().backward()
    assert data.grad is not None
    assert float(data.grad.abs().max()) > 0
    for name, parameter in model.core.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name
    with torch.no_grad():
        model.core.head.bias.add_(10.0)
        clean = eroded(data, torch.from_numpy(identity(sites, 3))).logits
        torch.testing.assert_close(clean, model(data), rtol=1e-4, atol=1e-5)
        assert float(clean.mean()) > 5


def test_images_of_another_size_are_fitted_and_taps_come_back(tiny):
    sites = sites_of(tiny)
    tap = sites[-1].name.split(":")[1]
    data, _ = images(2, seed=8)
    larger = torch.nn.functional.interpolate(data, (37, 31), mode="bilinear")
    factors = torch.from_numpy(sample(sites, seed=5, stream=1, members=2))
    with torch.no_grad():
        seen = erode(tiny, sites, taps=(tap,))(larger, factors)
        fitted = eroded_at(tiny, sites)(tiny.fit(larger), factors)
    torch.testing.assert_close(seen.logits, fitted.logits)
    assert len(seen.taps) == 1
    assert seen.taps[0].shape[0] == 2
    assert seen.features.ndim == 2
    assert fitted.taps == ()


def test_a_training_twin_does_as_the_net_in_training(tiny_residual):
    """Outputs and running statistics are those of PyTorch's own training mode."""
    peer = copy.deepcopy(tiny_residual.core).train()
    traced = trace(tiny_residual.core, tiny_residual.size)
    eroded = erode(tiny_residual, find_sites(traced, ("skip",), DEFAULT_STRENGTH))
    pixels, _ = images(6, seed=1)
    ones = torch.ones(6, eroded.width)
    before = eroded(pixels, ones).logits
    twin = following_batches(eroded.graph_module)
    assert torch.equal(eroded(pixels, ones).logits, before)  # making one changes nothing
    torch.testing.assert_close(twin(pixels, ones)[0], peer(pixels))
    kept, wanted = dict(tiny_residual.core.named_buffers()), dict(peer.named_buffers())
    means = [name for name in kept if name.endswith("running_mean")]
    assert means
    for name in means:
        torch.testing.assert_close(kept[name], wanted[name])
    after = eroded(pixels, ones).logits
    assert not torch.allclose(after, before)  # the frozen one has the new statistics
    torch.testing.assert_close(after, peer.eval()(pixels))
