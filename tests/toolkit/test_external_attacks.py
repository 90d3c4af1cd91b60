"""The libraries' attacks: known answers on linear nets, and what they leave alone."""

import random
import sys
from functools import cache

import numpy as np
import pytest
import torch

from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_toolkit.attacks import (
    Settings,
    auto_attack,
    carlini_wagner_l2,
    carlini_wagner_linf,
    prepare,
)
from deepfusion_toolkit.attacks.carlini_wagner import Search
from deepfusion_toolkit.attacks.mean_logits import MeanLogits, Spent
from deepfusion_toolkit.attacks.one_by_one import one_by_one, seeded
from deepfusion_toolkit.attacks.parts import Effort, plan_for
from tests.toolkit import attack_nets as nets

PLAIN = Settings(feature_weight=0.0)
SMALL = {
    auto_attack: {"effort": Effort(iterations=5, queries=20)},
    carlini_wagner_l2: {"search": Search(iterations=3, searches=12)},
    carlini_wagner_linf: {"search": Search(iterations=2, learning_rate=0.1)},
}
ATTACKS = pytest.mark.parametrize("attack", SMALL, ids=lambda f: f.__name__)


def weights(classes, seed):
    draw = torch.Generator().manual_seed(seed)
    return 0.05 * torch.randn(classes, nets.PIXELS, generator=draw)


def linear(classes, *seeds):
    return [nets.unmoved(nets.classifier(nets.Linear, weights(classes, s))) for s in seeds]


@cache
def skipping():
    return prepare([nets.classifier(nets.three), nets.classifier(nets.other_three)], PLAIN)


def greys(count, seed=3):
    """Images that no attack here drives to black or white."""
    draw = torch.Generator().manual_seed(seed)
    return 0.3 + 0.4 * torch.rand(count, 3, *nets.SIZE, generator=draw)


def judged(surrogates, images):
    with torch.no_grad():
        return MeanLogits(surrogates)(images).argmax(1)


def nearest(images, labels, mean, norm):
    """Exact distances [N] to the nearest other class; ``norm`` 2 or 1, the dual of infinity."""
    logits = (images.flatten(1) + 1) @ mean.T
    gaps = logits.gather(1, labels[:, None]) - logits
    reach = (mean[labels][:, None] - mean[None]).norm(p=norm, dim=2)
    return (gaps / reach).scatter(1, labels[:, None], float("inf")).amin(1)


def test_mean_logits_are_those_of_the_base_models():
    models = [nets.classifier(nets.three), nets.classifier(nets.other_three)]
    mean = MeanLogits(prepare(models, PLAIN))
    with torch.no_grad():
        wanted = (models[0](greys(3)) + models[1](greys(3))) / 2
        torch.testing.assert_close(mean(greys(3)), wanted)
    assert not mean.training
    assert not mean.train().training
    with pytest.raises(UsageError, match="at least one surrogate"):
        MeanLogits([])


def test_carlini_wagner_l2_finds_the_nearest_point_of_the_boundary():
    clean, mean = greys(2), (weights(2, 1) + weights(2, 2)) / 2
    surrogates = linear(2, 1, 2)
    labels = judged(surrogates, clean)
    found = carlini_wagner_l2(surrogates, clean, labels, ["a", "b"], Settings(eps=255))
    least = nearest(clean, labels, mean, 2)
    change = (found - clean).flatten(1)
    assert (judged(surrogates, found) != labels).all()
    assert (change.norm(dim=1) >= 0.999 * least).all()
    assert (change.norm(dim=1) <= 1.02 * least).all()
    towards = mean[1 - labels] - mean[labels]
    assert torch.cosine_similarity(change, towards).min() > 0.99


def test_carlini_wagner_linf_comes_near_the_nearest_point():
    clean, mean = greys(1), (weights(2, 1) + weights(2, 2)) / 2
    surrogates = linear(2, 1, 2)
    labels = judged(surrogates, clean)
    found = carlini_wagner_linf(surrogates, clean, labels, ["a"], Settings(eps=255))
    least = nearest(clean, labels, mean, 1)
    assert judged(surrogates, found) != labels
    assert least * 0.999 <= (found - clean).abs().max() <= least * 1.25


def test_carlini_wagner_l2_reaches_the_wanted_class():
    clean, surrogates = greys(2), linear(4, 1)
    wanted = MeanLogits(surrogates)(clean).argmin(1)
    chosen = Settings(eps=255, targeted=True)
    found = carlini_wagner_l2(surrogates, clean, wanted, ["a", "b"], chosen)
    assert torch.equal(judged(surrogates, found), wanted)


def test_confidence_is_a_margin():
    clean, surrogates = greys(1), linear(2, 1)
    labels = judged(surrogates, clean)
    search = Search(confidence=0.5)
    found = carlini_wagner_l2(surrogates, clean, labels, ["a"], Settings(eps=255), search=search)
    logits = MeanLogits(surrogates)(found)
    assert logits[0, 1 - labels] - logits[0, labels] >= 0.4999


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
def test_auto_attack_finds_the_corner_if_only_the_corner_fools(classes):
    clean, surrogates = greys(1), linear(classes, 1)
    labels = judged(surrogates, clean)
    mean = weights(classes, 1)
    eps = float(nearest(clean, labels, mean, 1)) * 255
    small = {"effort": Effort(iterations=50, queries=100)}
    inside = Settings(eps=max(1.02 * eps, 1))
    found = auto_attack(surrogates, clean, labels, ["a"], inside, **small)
    other = judged(surrogates, found)
    assert other != labels
    corner = inside.eps / 255 * (mean[other] - mean[labels]).sign().reshape(clean.shape)
    # what 2 % too much budget leaves free, on average
    assert (found - clean - corner).abs().mean() < 0.05 * inside.eps / 255
    below = auto_attack(surrogates, clean, labels, ["a"], Settings(eps=0.98 * eps), **small)
    assert torch.equal(below, clean)


@ATTACKS
def test_the_result_is_inside_epsilon(attack):
    eps = 4.5
    clean = greys(2).round(decimals=1).clamp(0, 1)
    clean[0, :, :4], clean[1, :, 4:] = 0, 1
    labels = judged(skipping(), clean)
    chosen = Settings(eps=eps)
    found = attack(skipping(), clean, labels, ["a", "b"], chosen, **SMALL[attack])
    assert found.shape == clean.shape
    assert found.dtype == clean.dtype
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found - clean).abs().max() <= eps / 255 + 1e-6


def test_epsilon_cuts_what_carlini_wagner_found():
    clean, surrogates = greys(1), linear(2, 1, 2)
    labels = judged(surrogates, clean)
    free = carlini_wagner_l2(surrogates, clean, labels, ["a"], Settings(eps=255))
    cut = carlini_wagner_l2(surrogates, clean, labels, ["a"], Settings(eps=3))
    assert (free - clean).abs().max() > 6 / 255
    torch.testing.assert_close(cut, clean + (free - clean).clamp(-3 / 255, 3 / 255))


@ATTACKS
def test_an_images_result_is_its_own(attack):
    clean, keys = greys(3), ["a", "b", "c"]
    labels = judged(skipping(), clean)
    chosen = Settings(eps=16)
    together = attack(skipping(), clean, labels, keys, chosen, **SMALL[attack])
    assert not torch.equal(together, clean)
    order = [2, 0]
    some = attack(skipping(), clean[order], labels[order], ["c", "a"], chosen, **SMALL[attack])
    assert torch.equal(some, together[order])


def test_the_seed_and_the_key_are_felt():
    clean = greys(1)
    labels = judged(skipping(), clean)
    one, other, renamed = (
        auto_attack(skipping(), clean, labels, [key], Settings(seed=seed), **SMALL[auto_attack])
        for key, seed in (("a", 0), ("a", 1), ("b", 0))
    )
    assert not torch.equal(one, other)
    assert not torch.equal(one, renamed)


@ATTACKS
def test_the_programs_random_numbers_are_left_alone(attack):
    def state():
        numbers = np.random.get_state()  # noqa: NPY002 - the one that is looked after
        return (*torch.get_rng_state().tolist(), *numbers[1], *numbers[2:], random.getstate())

    clean = greys(1)
    labels = judged(skipping(), clean)
    random.seed(5)
    before = state()
    attack(skipping(), clean, labels, ["a"], Settings(), **SMALL[attack])
    assert state() == before


def test_a_debugger_keeps_watching():
    """The library's own check switches tracing off."""

    def tracer(_frame, _event, _value):
        return None

    clean, surrogates = greys(1), skipping()
    labels, before = judged(surrogates, clean), sys.gettrace()
    sys.settrace(tracer)
    try:
        auto_attack(surrogates, clean, labels, ["a"], Settings(), **SMALL[auto_attack])
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is tracer


def test_random_numbers_come_back_after_an_error():
    before = torch.get_rng_state(), random.getstate()
    first = []

    def draw_and_fail():
        first.extend((random.random(), float(torch.rand(1)), np.random.rand()))  # noqa: NPY002
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), seeded(3):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    with seeded(3):
        again = [random.random(), float(torch.rand(1)), np.random.rand()]  # noqa: NPY002
    assert again == first


@ATTACKS
def test_passes_are_the_gradients_that_flow_back(attack):
    """Counted a second time, at the surrogates' outputs."""
    surrogates, spent = skipping(), Spent()
    forward, backward = [], []

    def watch(_module, _inputs, seen):
        forward.append(len(seen.logits))
        if seen.logits.requires_grad:
            seen.logits.register_hook(lambda gradient: backward.append(len(gradient)))

    clean = greys(2)
    labels = judged(surrogates, clean)
    hooks = [surrogate.register_forward_hook(watch) for surrogate in surrogates]
    attack(surrogates, clean, labels, ["a", "b"], Settings(), spent=spent, **SMALL[attack])
    for hook in hooks:
        hook.remove()
    assert spent.passes == sum(backward) > 0
    assert spent.queries == sum(forward) - sum(backward) > 0
    if attack is carlini_wagner_l2:  # two classes' gradients, each iteration of each search
        assert spent.passes == 2 * 3 * 12 * len(clean) * len(surrogates)


@pytest.mark.parametrize("attack", [auto_attack, carlini_wagner_linf])
def test_targets_are_refused_where_the_library_knows_none(attack):
    chosen = Settings(targeted=True)
    with pytest.raises(UsageError, match="knows no targets"):
        attack(linear(2, 1), greys(1), torch.tensor([0]), ["a"], chosen)


@pytest.mark.parametrize(
    ("attack", "modules"),
    [
        (auto_attack, ["pyautoattack"]),
        (carlini_wagner_l2, ["art", "art.attacks"]),
        (carlini_wagner_linf, ["art", "art.attacks"]),
    ],
)
def test_a_missing_library_is_one_line(attack, modules, monkeypatch):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError) as caught:
        attack(linear(2, 1), greys(1), torch.tensor([0]), ["a"], Settings())
    assert caught.value.remedy == "pip install deepfusion-toolkit[baselines]"
    assert "\n" not in str(caught.value)


def test_a_result_that_is_no_number_is_refused():
    def attack(image, _label, _seed):
        return image / 0

    with pytest.raises(ModelError, match=r"no finite image for x\.png"):
        one_by_one("mine", attack, greys(1), torch.tensor([0]), ["x.png"], Settings())


def test_no_images_no_results():
    none = greys(0)
    assert one_by_one("mine", None, none, torch.tensor([]), [], Settings()).shape == none.shape


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (Search, {"iterations": 0}),
        (Search, {"searches": 0}),
        (Search, {"confidence": -1}),
        (Search, {"confidence": float("nan")}),
        (Search, {"learning_rate": 0}),
        (Effort, {"iterations": 0}),
        (Effort, {"queries": 0}),
    ],
)
def test_efforts_out_of_range_are_refused(make, change):
    with pytest.raises(UsageError):
        make(**change)


def test_parts_suit_the_number_of_classes():
    assert plan_for(10).parts == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert plan_for(10).note == ""
    assert plan_for(1000).targets == 9
    assert plan_for(4).targets == 3
    assert "3 of 9" in plan_for(4).note
    assert plan_for(3).parts == ("apgd-ce", "apgd-dlr", "fab-t", "square")
    assert plan_for(3, "plus").parts == ("apgd-ce", "fab", "square", "apgd-dlr", "fab-t")
    assert plan_for(2).parts == ("apgd-ce", "fab-t", "square")
    assert "no DLR loss with 2 classes" in plan_for(2).note
    with pytest.raises(ModelError, match="1 class"):
        plan_for(1)
    with pytest.raises(UsageError, match="standard or plus"):
        plan_for(10, "rand")
