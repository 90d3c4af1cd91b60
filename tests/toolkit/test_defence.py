"""The fused network of the toolkit says what the device's numpy rule says, alone or in a batch."""

import numpy as np
import pytest
import torch

from deepfusion_edge import fusion
from deepfusion_toolkit.defence import Defended, run_members
from deepfusion_toolkit.models import resized
from deepfusion_toolkit.surgery import erode, find_sites, prefix_share
from deepfusion_toolkit.surgery.cost import multiply_adds
from deepfusion_toolkit.surgery.graph import trace
from tests.toolkit import attack_nets as nets


def eroded_half(make):
    model = nets.classifier(make)
    sites = find_sites(trace(model.core, model.size), ("activation",), {"activation": 0.5})
    return erode(model, sites)


@pytest.fixture(scope="module")
def eroded():
    return eroded_half(nets.public)


@pytest.fixture(scope="module")
def defended(eroded):
    return Defended(eroded)


@pytest.mark.parametrize("rule", fusion.RULES)
def test_a_batch_is_fused_like_each_image_alone_and_like_the_device_does(rule, eroded):
    defended = Defended(eroded, rule=rule)
    torch.manual_seed(0)
    images, keys = torch.rand(3, 3, *defended.size), ["a", "b", "c"]
    factors = defended.draw(keys, seed=1, members=4)
    with torch.no_grad():
        seen = defended(images, factors)
        for n, key in enumerate(keys):
            alone = run_members(defended, images[n : n + 1], seed=1, key=key, members=4)
            outputs = eroded(images[n : n + 1], factors[n])
            features = fusion.feature_variance(outputs.features.numpy())
            np.testing.assert_allclose(seen.members[n], alone.members, atol=1e-6)
            np.testing.assert_allclose(seen.fused[n], fusion.fuse(alone.members, rule), atol=1e-6)
            assert float(seen.feature_variance[n]) == pytest.approx(features, rel=1e-4)
            assert alone.feature_variance == pytest.approx(features, rel=1e-4) != 0


def test_draws_depend_on_seed_stream_and_key_alone(defended):
    both = defended.draw(["a", "b"], seed=1, members=4)
    assert torch.equal(both[1], defended.draw(["b"], seed=1, members=4)[0])
    assert torch.equal(both[:, :2], defended.draw(["a", "b"], seed=1, members=2))
    for other in ({"seed": 2}, {"seed": 1, "stream": "eot"}):
        assert not torch.equal(both, defended.draw(["a", "b"], members=4, **other))


@pytest.mark.parametrize("rule", fusion.RULES)
def test_an_attacker_can_climb_through_the_whole_fused_output(rule, eroded):
    defended = Defended(eroded, rule=rule)
    image = torch.full((2, 3, *defended.size), 0.5, requires_grad=True)
    seen = defended(image, defended.draw(["a", "b"], seed=0, members=3))
    (gradient,) = torch.autograd.grad(seen.fused[:, 0].sum() + seen.feature_variance.sum(), image)
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("rule", fusion.RULES)
def test_members_of_two_models_of_other_sizes_are_fused_base_after_base(rule, eroded):
    """The smaller model sees the frame resized, and each model has factors of its own."""
    small = eroded_half(nets.three)
    defended = Defended(eroded, small, rule=rule)
    assert defended.size == (16, 16) != small.size
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    factors = defended.draw(["a", "b"], seed=1, members=3)
    assert factors.shape == (2, 3, eroded.width + small.width)
    with torch.no_grad():
        seen = defended(images, factors)
        for n in range(2):
            looks = [
                eroded(images[n : n + 1], factors[n, :, : eroded.width]),
                small(resized(images[n : n + 1], small.size), factors[n, :, eroded.width :]),
            ]
            members = torch.cat([look.logits.softmax(1) for look in looks]).numpy()
            np.testing.assert_allclose(seen.members[n], members, atol=1e-6)
            np.testing.assert_allclose(seen.fused[n], fusion.fuse(members, rule), atol=1e-5)
            variances = [fusion.feature_variance(look.features.numpy()) for look in looks]
            assert float(seen.feature_variance[n]) == pytest.approx(np.mean(variances), rel=1e-4)
            alone = defended(images[n : n + 1], factors[n : n + 1])
            np.testing.assert_allclose(alone.members[0], members, atol=1e-6)


def test_the_shared_work_of_two_models_is_weighed_by_their_work(eroded):
    small = eroded_half(nets.three)
    graphs = [eroded.graph_module, small.graph_module]
    work = [sum(multiply_adds(node) for node in graph.graph.nodes) for graph in graphs]
    shares = [prefix_share(graph) for graph in graphs]
    assert prefix_share(*graphs) == pytest.approx(np.average(shares, weights=work))
    assert shares[0] != shares[1]
