"""The attack against surrogates where the best answer is known, and its projection to files."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_toolkit.attacks import Settings, attack, prepare, quantise
from deepfusion_toolkit.attacks.passes import remember
from deepfusion_toolkit.attacks.projections import into_ball
from deepfusion_toolkit.features import choose_tap
from tests.toolkit import attack_nets as nets


def weights(classes, seed):
    draw = torch.Generator().manual_seed(seed)
    return 0.05 * torch.randn(classes, nets.PIXELS, generator=draw)


def bytes_of(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *nets.SIZE), generator=draw).float()


def linear(classes, seed, *, tapped=False):
    model = nets.classifier(nets.Linear, weights(classes, seed))
    return nets.unmoved(model, [choose_tap(model)] if tapped else [])


@cache
def skipping(tapped):
    models = [nets.classifier(nets.three), nets.classifier(nets.other_three)]
    return prepare(models, Settings(feature_weight=0.5 if tapped else 0.0))


def corner(clean, direction, eps):
    """Where a linear loss is highest within epsilon, in whole bytes."""
    return (clean + eps * direction.sign()).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("feature_weight", [0.0, 0.5])
def test_two_linear_surrogates_end_in_the_corner_of_their_mean(feature_weight):
    tapped = feature_weight > 0
    surrogates = [linear(2, 1, tapped=tapped), linear(2, 2, tapped=tapped)]
    clean, labels = bytes_of(4), torch.tensor([0, 1, 0, 1])
    chosen = Settings(eps=16, steps=10, feature_weight=feature_weight)
    found = attack(surrogates, clean / 255, labels, list("abcd"), chosen).images
    mean = (weights(2, 1) + weights(2, 2)) / 2
    away = (mean[1 - labels] - mean[labels]).reshape(clean.shape)
    best = corner(clean, away, 16)
    assert torch.equal(quantise(found, clean / 255, 16), best)
    one = corner(clean, (weights(2, 1)[1 - labels] - weights(2, 1)[labels]).reshape(best.shape), 16)
    assert not torch.equal(one, best)  # one surrogate alone leads elsewhere


def test_targeted_ends_where_the_targets_logit_is_highest():
    clean, wanted = bytes_of(5, seed=3), torch.tensor([0, 1, 2, 3, 4])
    chosen = Settings(eps=7, steps=10, targeted=True, feature_weight=0.0)
    found = attack([linear(5, 4)], clean / 255, wanted, list("abcde"), chosen).images
    best = corner(clean, weights(5, 4)[wanted].reshape(clean.shape), 7)
    assert torch.equal(quantise(found, clean / 255, 7), best)


@pytest.mark.parametrize(("steps", "alpha"), [(1, 20), (4, 5), (10, 2), (300, 2)])
def test_epsilon_is_reached_in_ten_steps_or_in_all(steps, alpha):
    assert Settings(eps=20, steps=steps).alpha * 255 == pytest.approx(alpha)


def reference(surrogates, clean, labels, keys, chosen):
    """Momentum iterative FGSM (Dong et al., CVPR 2018) on mean logits, written a second time."""
    x, memory = clean.contiguous(memory_format=torch.channels_last), 0.0
    for step in range(chosen.steps):
        x = x.detach().requires_grad_(True)
        logits = 0
        for index, model in enumerate(surrogates):
            streams = [stream_of("craft", key, step, index) for key in keys]
            drawn = [sample(model.sites, seed=chosen.seed, stream=s, members=1) for s in streams]
            logits = logits + model(x, torch.from_numpy(np.concatenate(drawn))).logits
        loss = functional.cross_entropy(logits / len(surrogates), labels, reduction="none").sum()
        (gradient,) = torch.autograd.grad(loss, x)
        memory = chosen.decay * memory + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        x = x.detach() + chosen.alpha * memory.sign()
        x = clean + (x - clean).clamp(-chosen.eps / 255, chosen.eps / 255)
        x = x.clamp(0, 1)
    return x


def test_without_feature_weight_it_is_momentum_iteration_on_eroded_models():
    clean, labels, keys = bytes_of(3) / 255, torch.tensor([0, 1, 2]), ["x", "y", "z"]
    chosen = Settings(eps=12, steps=4, decay=0.9, feature_weight=0.0, seed=5)
    found, passes = attack(skipping(False), clean, labels, keys, chosen)
    wanted = reference(skipping(False), clean, labels, keys, chosen)
    assert torch.equal(quantise(found, clean, 12), quantise(wanted, clean, 12))
    assert passes == 4 * 2
    tapped = attack(skipping(True), clean, labels, keys, chosen).images
    assert torch.equal(found, tapped)  # a tap that is not used changes nothing


@pytest.mark.parametrize(
    "change",
    [
        {"feature_weight": 0.5},
        {"decay": 0.0},
        {"seed": 1},
        {"targeted": True},
        {"eps": 15},
        {"steps": 4},
        {"step_size": 3.0},
        {"nesterov": True},
        {"loss": "logit"},
        {"group": 1},
        {"erosion": 0.0},
        {"kernel": 3},
        {"transforms": ("di",)},
        {"transforms": ("turn",)},
        {"transforms": ("bsr",)},
        {"transforms": ("si",)},
        {"samples": 2},
        {"radius": 1.0},
        {"start": True},
        *({"method": method} for method in ("vmi", "pgn", "svre", "smer", "fia")),
    ],
    ids=str,
)
def test_every_setting_is_felt(change):
    clean, labels, keys = bytes_of(3) / 255, torch.tensor([0, 1, 2]), ["x", "y", "z"]
    plain = {"eps": 16, "steps": 5, "feature_weight": 0.0, "seed": 0}
    one, other = (
        quantise(attack(skipping(True), clean, labels, keys, Settings(**s)).images, clean, 16)
        for s in (plain, plain | change)
    )
    assert not torch.equal(one, other)


def test_an_images_result_is_its_own():
    """No image is normalised, eroded or remembered with its neighbours."""
    clean, labels, keys = bytes_of(4) / 255, torch.tensor([0, 1, 2, 0]), ["a", "b", "c", "d"]
    clean[1] = 0.5 + (clean[1] - 0.5) * 0.01  # an image with gradients of another size
    chosen = Settings(eps=16, steps=5)
    together = quantise(attack(skipping(True), clean, labels, keys, chosen).images, clean, 16)
    order = [2, 0, 3, 1]
    turned = [keys[i] for i in order]
    mixed = attack(skipping(True), clean[order], labels[order], turned, chosen).images
    assert torch.equal(quantise(mixed, clean[order], 16), together[order])
    again = attack(skipping(True), clean, labels, keys, chosen).images
    assert torch.equal(quantise(again, clean, 16), together)


def test_the_gradient_at_a_tap_is_joined_by_the_sum_of_unit_gradients():
    first, second, third = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
    first[1] *= 100  # the second image's gradients are far larger
    memories = [None]
    arrived = []
    for coefficient in (first, second, third):
        x = torch.zeros(2, 4, requires_grad=True)
        tap = 1 * x
        remember(tap, memories, 0, 0.5)
        (gradient,) = torch.autograd.grad((coefficient * tap).sum(), x)
        arrived.append(gradient)

    def unit(g):
        return g / g.abs().sum(1, keepdim=True)

    def joined(g, memory):
        return g + 0.5 * g.abs().sum(1, keepdim=True) * unit(memory)

    torch.testing.assert_close(arrived[0], first)
    torch.testing.assert_close(arrived[1], joined(second, unit(first)))
    torch.testing.assert_close(arrived[2], joined(third, unit(first) + unit(second)))
    torch.testing.assert_close(memories[0], unit(first) + unit(second) + unit(third))


def test_weights_that_are_not_numbers_name_their_surrogate():
    models = [nets.classifier(nets.three), nets.classifier(nets.broken)]
    clean = bytes_of(2) / 255
    surrogates = prepare(models, Settings())
    with pytest.raises(ModelError, match=r"broken gives .* first at layer 'conv2d") as caught:
        attack(surrogates, clean, torch.tensor([0, 1]), ["a", "b"], Settings())
    assert "three" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"eps": 0.99}, "--eps"),
        ({"eps": 256}, "--eps"),
        ({"eps": float("nan")}, "--eps"),
        ({"steps": 0}, "--steps"),
        ({"decay": -0.1}, "--decay"),
        ({"decay": 1.1}, "--decay"),
        ({"decay": float("nan")}, "--decay"),
        ({"step_size": 0}, "--step-size"),
        ({"step_size": 256}, "--step-size"),
        ({"group": -1}, "--group"),
        ({"erosion": -0.1}, "--erosion"),
        ({"erosion": 4.1}, "--erosion"),
        ({"kinds": ()}, "--kinds"),
        ({"kinds": ("skip", "other")}, "--kinds"),
        ({"residual": 0}, "--residual"),
        ({"residual": 1.1}, "--residual"),
        ({"transforms": ("di", "other")}, "--transforms"),
        ({"kernel": 4}, "--kernel"),
        ({"kernel": -3}, "--kernel"),
        ({"kernel": 101}, "--kernel"),
        ({"samples": 0}, "--samples"),
        ({"radius": -0.1}, "--radius"),
        ({"radius": float("inf")}, "--radius"),
        ({"mixup": 1.1}, "--mixup"),
        ({"mixup": float("nan")}, "--mixup"),
        ({"feature_weight": -1}, "--feature-weight"),
        ({"feature_weight": float("nan")}, "--feature-weight"),
        ({"feature_weight": float("inf")}, "--feature-weight"),
    ],
)
def test_settings_out_of_range_are_refused(change, option):
    with pytest.raises(UsageError) as caught:
        Settings(**change)
    assert option in caught.value.remedy


@pytest.mark.parametrize("good", [{"eps": 1}, {"eps": 255}, {"decay": 0}, {"feature_weight": 0}])
def test_settings_at_the_limits_are_taken(good):
    assert Settings(**good)


@settings(deadline=None, max_examples=80)
@given(
    eps=st.floats(1, 255),
    seed=st.integers(0, 1000),
    reach=st.sampled_from([0.5, 1.0, 1.7]),
)
def test_a_saved_image_is_never_further_than_epsilon(eps, seed, reach):
    clean = bytes_of(2, seed)
    draw = torch.Generator().manual_seed(seed)
    moved = clean / 255 + reach * eps / 255 * (2 * torch.rand(clean.shape, generator=draw) - 1)
    saved = quantise(moved, clean / 255, eps)
    assert saved.dtype == torch.uint8
    assert (saved.float() - clean).abs().max() <= eps
    inside = into_ball(moved, clean / 255, eps / 255)
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert (inside - clean / 255).abs().max() <= eps / 255 + 1e-6
    # the nearest byte, where the budget leaves it free
    near = (moved.clamp(0, 1) * 255).round()
    free = (near - clean).abs() <= int(eps)
    assert torch.equal(saved.float()[free], near[free])


def test_a_fractional_epsilon_is_rounded_down_in_the_file():
    clean = torch.full((1, 3, 2, 2), 100.0) / 255
    assert quantise(clean + 2.9 / 255, clean, 2.9).unique().tolist() == [102]
    assert quantise(clean - 2.9 / 255, clean, 2.9).unique().tolist() == [98]
    edge = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    assert quantise(edge + torch.tensor([-0.1, 0.1]), edge, 30).flatten().tolist() == [0, 255]
