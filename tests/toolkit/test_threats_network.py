"""The network under attack says what the device says; its gradients are means over draws."""

import msgspec
import numpy as np
import pytest
import torch

from deepfusion_edge import fusion
from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import ModelError
from deepfusion_toolkit import attacks
from deepfusion_toolkit.attacks import battery
from deepfusion_toolkit.attacks.directions import fusion as fusing
from deepfusion_toolkit.attacks.passes import Passes
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.plan import Base
from deepfusion_toolkit.surgery import erode, find_sites
from deepfusion_toolkit.surgery.graph import trace
from deepfusion_toolkit.threats.network import (
    Fresh,
    FusedNetwork,
    defended_like,
    fixed,
    log_probabilities,
    log_scores,
    seed_of,
)
from tests.toolkit import attack_nets as nets
from tests.toolkit import threat_cases as cases

MEMBERS = 3


@pytest.fixture(scope="module")
def defended():
    return cases.defence(nets.classifier(nets.public), 0.4)[0]


@pytest.fixture
def batch(defended):
    draw = torch.Generator().manual_seed(0)
    return (
        torch.rand(3, 3, *defended.size, generator=draw),
        torch.tensor([0, 1, 2]),
        ["a", "b", "c"],
    )


def settings(**more):
    return attacks.Settings(erosion=1.0, feature_weight=0.0, loss="logit", **more)


def test_the_gradient_over_draws_is_the_mean_of_single_gradients(defended, batch):
    images, labels, keys = batch
    several = settings(samples=4, seed=7)
    averaged = fusing(
        Passes([FusedNetwork(defended, MEMBERS)], images, labels, keys, several), several
    )(images, 0)
    single = []
    for draw in range(4):
        rows = [
            sample(
                defended.sites * MEMBERS, seed=7, stream=stream_of("craft", key, draw, 0), members=1
            )
            for key in keys
        ]
        factors = torch.from_numpy(np.stack(rows)).view(3, MEMBERS, -1)
        leaf = images.clone().requires_grad_(True)
        right = defended(leaf, factors).fused.gather(1, labels[:, None])
        single.append(torch.autograd.grad(-right.log().sum(), leaf)[0])
    assert not torch.allclose(single[0], single[1], atol=1e-7)
    torch.testing.assert_close(averaged, torch.stack(single).mean(0), atol=1e-6, rtol=1e-4)


def test_the_library_averages_over_as_many_calls(defended, batch):
    images, labels, _ = batch
    network = Fresh(defended, MEMBERS, seed=1)
    found = battery.apgd(network, images, labels, 8, loss="dlr", steps=3, eot=5, seed=0)
    assert network.calls == 1 + 5 * (1 + 3)  # a look at the start, then at it and after each step
    assert float((found - images).abs().max()) <= 8 / 255 + 1e-6


def test_scores_are_the_devices(defended, batch):
    images, _, keys = batch
    factors = defended.draw(keys, seed=0, members=MEMBERS)
    seen = defended(images, factors)
    wanted = [
        np.log(float(v)) + np.log(fusion.disagreement(m.numpy()))
        for m, v in zip(seen.members, seen.feature_variance, strict=True)
    ]
    np.testing.assert_allclose(log_scores(seen), wanted, rtol=1e-2)
    torch.testing.assert_close(log_probabilities(seen.fused).softmax(1), seen.fused)


def test_an_evader_climbs_scores_without_changing_predictions(defended, batch):
    images, _, keys = batch
    factors = defended.draw(keys, seed=0, members=MEMBERS).flatten(1)
    honest, evading = (FusedNetwork(defended, MEMBERS, evading=w)(images, factors) for w in (0, 2))
    torch.testing.assert_close(evading.logits.softmax(1), honest.logits.softmax(1))
    shift = (evading.logits - honest.logits)[:, 0]
    torch.testing.assert_close(shift, 2 * honest.features[:, 0])


def test_fresh_draws_differ_by_call_and_repeat_by_key(defended, batch):
    network = Fresh(defended, MEMBERS, seed=1)
    image = batch[0][:1]
    network.begin("a")
    first, second = network(image), network(image)
    assert not torch.equal(first, second)
    network.begin("a")
    assert torch.equal(network(image), first)
    network.begin("b")
    assert not torch.equal(network(image), first)


def test_a_fixed_draw_is_one_network(defended, batch):
    images = batch[0]
    network = fixed(defended, MEMBERS, seed=3)
    together = network(images)
    torch.testing.assert_close(network(images[1:2]), together[1:2])
    assert torch.equal(fixed(defended, MEMBERS, seed=3)(images), together)
    assert not torch.equal(fixed(defended, MEMBERS, seed=4)(images), together)


class Recording(Defended):
    asked = None

    def forward(self, images, factors):
        self.asked = factors
        return super().forward(images, factors)


def test_attackers_do_not_draw_what_judges_draw(defended):
    recording = Recording(*defended.bases)
    network = Fresh(recording, 2, seed=seed_of("query", 0))
    network.begin("a")
    network(torch.rand(1, 3, *defended.size))
    assert not torch.equal(recording.asked, defended.draw(["a"], seed=0, members=2))
    assert len({seed_of(a, s) for a in ("query", "transfer") for s in (0, 1)} | {0, 1}) == 6


def test_an_attackers_copy_has_the_plans_kinds_strengths_and_split():
    model = nets.classifier(nets.three)
    strength = {"skip": 0.3, "activation": 0.05}
    sites = find_sites(trace(model.core, model.size), tuple(strength), strength)
    _, plan = cases.defence(nets.classifier(nets.other_three), 0.2)
    copy = defended_like(plan, model)
    assert {(site.kind, site.strength) for site in copy.sites} == {("activation", 0.2)}
    own = (Base("three", "", sites),)
    early = msgspec.structs.replace(plan, bases=own, prefix_share=0.0)
    assert defended_like(early, model).sites == sites
    late = msgspec.structs.replace(early, prefix_share=0.9)
    assert defended_like(late, model).sites == sites[1:]


def test_numbers_that_are_not_finite_are_told():
    model = nets.classifier(nets.broken)
    defended = Defended(
        erode(model, find_sites(trace(model.core, model.size), ("skip",), {"skip": 0.1}))
    )
    network = FusedNetwork(defended, 2)
    with pytest.raises(ModelError, match="broken gives scores that are not finite"):
        network(torch.rand(1, 3, *nets.SIZE), torch.ones(1, network.width))
