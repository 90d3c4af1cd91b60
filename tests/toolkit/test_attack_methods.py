"""Every attack by name: known corners, passes counted a second time, and an image on its own."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.attacks import Settings, attack, cost, prepare, quantise, settings_for
from deepfusion_toolkit.attacks.budget import deep_fusion
from deepfusion_toolkit.attacks.methods import BASELINES
from deepfusion_toolkit.attacks.projections import into_ball
from deepfusion_toolkit.features import choose_tap
from deepfusion_toolkit.names import ATTACKS, DEEP_FUSION
from deepfusion_toolkit.names import BASELINES as NAMES
from tests.toolkit import attack_nets as nets

EPS = 12
RANDOM = {
    "di": "sees the image resized and moved, which turns a linear gradient",
    "bsr": "sees the image in shuffled parts, which turns a linear gradient",
    "logit": "is DI and TI with another loss",
    "cw": "searches the smallest change, in the L2 norm",
    DEEP_FUSION: "may have any of these parts, by budget",
}
LEAST = {"vmi": 2, "pgn": 2, "svre": 3, "fia": 2, "cw": 2}
"""Passes for each surrogate that one step needs, where it is more than one."""
BUDGETS = pytest.mark.parametrize("budget", [20, 80, 7, 33])


def weights(classes, seed):
    draw = torch.Generator().manual_seed(seed)
    return 0.05 * torch.randn(classes, nets.PIXELS, generator=draw)


@cache
def linear(seed):
    model = nets.classifier(nets.Linear, weights(3, seed))
    return nets.unmoved(model, [choose_tap(model)])


@cache
def skipping(count, chosen):
    """Surrogates as these settings want them; those of like settings are shared."""
    makes = (nets.three, nets.other_three, nets.learner)
    return prepare([nets.classifier(make) for make in makes[:count]], chosen)


def surrogates(count, chosen):
    return skipping(count, Settings(residual=chosen.residual, feature_weight=0.5))


def images(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *nets.SIZE), generator=draw) / 255


BANK = images(3, seed=9)


def corner(clean, direction):
    """Where a linear loss is highest within epsilon, in whole bytes."""
    moved = clean * 255 + EPS * direction.reshape(clean.shape).sign()
    return moved.clamp(0, 255).round().to(torch.uint8)


def blurred(gradient, size):
    """TI's correlation, one product after the other."""
    at = torch.linspace(-3, 3, size)
    line = torch.exp(-(at**2) / 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    wide = torch.nn.functional.pad(gradient, [size // 2] * 4)
    height, width = gradient.shape[-2:]
    return sum(
        kernel[i, j] * wide[..., i : i + height, j : j + width]
        for i in range(size)
        for j in range(size)
    )


def unit(gradient):
    return gradient / gradient.abs().mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in RANDOM])
@pytest.mark.parametrize(("count", "targeted"), [(1, False), (2, False), (2, True)])
def test_on_linear_surrogates_it_ends_in_the_known_corner(name, count, targeted):
    """The class's own logit is climbed down (up if targeted), a gradient that is constant."""
    clean, labels = images(4), torch.tensor([0, 1, 2, 0])
    chosen = settings_for(name, passes=60, surrogates=count, eps=EPS, targeted=targeted)
    chosen = replace(chosen, loss="logit")
    found = attack([linear(n) for n in range(count)], clean, labels, list("abcd"), chosen, BANK)
    rows = [(1 if targeted else -1) * weights(3, n)[labels] for n in range(count)]
    single = [row.reshape(clean.shape) for row in rows]
    mean = sum(unit(g) for g in single) if name == "fia" else sum(single)
    if name == "ti":
        mean = blurred(mean, chosen.kernel)
    saved, best = quantise(found.images, clean, EPS), corner(clean, mean)
    if name in {"smer", "si", "admix"} and count > 1:
        # weights that they draw or compute decide where the surrogates disagree
        agreed = single[0].sign() == single[1].sign()
        saved, best = saved[agreed], best[agreed]
    assert torch.equal(saved, best)


def test_the_methods_left_out_above_really_go_elsewhere():
    """So that the list above stays as short as it can be."""
    clean, labels = images(2), torch.tensor([0, 1])
    for name in set(RANDOM) & set(NAMES):
        chosen = settings_for(name, passes=30, surrogates=1, eps=EPS)
        found = attack([linear(0)], clean, labels, ["a", "b"], replace(chosen, loss="logit"))
        assert not torch.equal(
            quantise(found.images, clean, EPS), corner(clean, -weights(3, 0)[labels])
        )


def test_the_names_are_those_of_the_table():
    assert (DEEP_FUSION, *BASELINES) == ATTACKS
    with pytest.raises(UsageError, match="there is no attack 'other'"):
        settings_for("other", passes=10, surrogates=1)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("targeted", [False, True])
@BUDGETS
def test_passes_are_counted_and_never_above_the_budget(name, budget, targeted):
    clean, labels = images(1), torch.tensor([1])
    for count in (1, 2, 3):
        if budget // count < LEAST.get(name, 1):
            continue  # see the next test
        chosen = settings_for(name, passes=budget, surrogates=count, eps=EPS, targeted=targeted)
        assert chosen == settings_for(
            name, passes=budget, surrogates=count, eps=EPS, targeted=targeted
        )
        models, seen = surrogates(count, chosen), []
        hooks = [
            model.register_forward_hook(
                lambda *a, seen=seen: seen.append(len(a[2].logits) * a[2].logits.requires_grad)
            )
            for model in models
        ]
        found = attack(models, clean, labels, ["a"], chosen, BANK)
        for hook in hooks:
            hook.remove()
        assert sum(seen) == found.passes == cost(chosen, count) <= budget
        assert found.passes > (0 if name == "fgsm" else budget / 2)  # not wasted either
        assert (found.images - clean).abs().max() <= EPS / 255 + 1e-6


@pytest.mark.parametrize("name", ATTACKS)
def test_a_budget_below_one_step_is_refused(name):
    least = next(passes for passes in range(1, 100) if _settings_or_none(name, passes) is not None)
    assert least == 3 * LEAST.get(name, 1)
    for passes in (least - 1, 1, 0, -1):
        with pytest.raises(UsageError) as caught:
            settings_for(name, passes=passes, surrogates=3)
        assert "--passes" in caught.value.remedy


def _settings_or_none(name, passes):
    try:
        return settings_for(name, passes=passes, surrogates=3)
    except UsageError:
        return None


@pytest.mark.parametrize("targeted", [False, True])
def test_deep_fusion_uses_its_budget_whatever_it_is(targeted):
    for count in (1, 2, 3, 5):
        for passes in (*range(count, 40), 100, 500, 1000):
            chosen = deep_fusion(passes, Settings(targeted=targeted, seed=4, eps=3))
            assert passes / 2 < cost(chosen, count) <= passes
            assert (chosen.targeted, chosen.seed, chosen.eps) == (targeted, 4, 3)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_alone_is_the_image_in_its_batch(name):
    """Alone as ``craft`` does it: the batch filled up with copies."""
    chosen = settings_for(name, passes=24, surrogates=2, eps=EPS)
    clean, labels, keys = images(4), torch.tensor([0, 1, 2, 0]), list("abcd")
    clean[2] = 0.5 + (clean[2] - 0.5) * 0.01  # an image with gradients of another size
    models = surrogates(2, chosen)
    together = attack(models, clean, labels, keys, chosen, BANK).images
    alone = attack(
        models, clean[1:2].expand(4, -1, -1, -1), labels[1].expand(4), ["b"] * 4, chosen, BANK
    ).images
    wanted = quantise(together, clean, EPS)[1]
    for copy in quantise(alone, clean[1:2].expand(4, -1, -1, -1), EPS):
        assert torch.equal(copy, wanted)
    order = [3, 2, 1, 0]
    turned = attack(models, clean[order], labels[order], keys[::-1], chosen, BANK).images
    assert torch.equal(quantise(turned, clean[order], EPS), quantise(together, clean, EPS)[order])


def test_pgd_starts_at_a_random_point_of_the_ball():
    """No step at all: a step of nothing from the start."""
    clean, labels = images(3) * 0.5 + 0.25, torch.tensor([0, 1, 2])
    chosen = Settings(eps=EPS, steps=1, step_size=1e-9, start=True, feature_weight=0.0, erosion=0.0)
    found = attack([linear(0)], clean, labels, list("abc"), chosen).images
    apart = (found - clean) * 255 / EPS
    assert apart.abs().max() <= 1 + 1e-4
    assert apart.abs().max() > 0.98
    assert apart.mean().abs() < 0.1
    assert apart.abs().mean() == pytest.approx(0.5, abs=0.05)
    other = attack([linear(0)], clean, labels, ["x", "b", "c"], chosen).images
    assert not torch.equal(found[0], other[0])
    torch.testing.assert_close(found[1:], other[1:])
    white = torch.ones(1, 3, *nets.SIZE)
    edge = attack([linear(0)], white, labels[:1], ["a"], chosen).images
    assert torch.equal(edge, into_ball(edge, white, EPS / 255))
