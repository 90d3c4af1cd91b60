"""Minigroups, neighbours and the rivals' directions, each written a second time, plainly."""

from functools import cache

import pytest
import torch
from torch.nn import functional

from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_toolkit.attacks import Settings, attack, cost, directions, prepare, quantise
from deepfusion_toolkit.attacks import passes as passes_module
from deepfusion_toolkit.attacks.passes import Passes, remember
from deepfusion_toolkit.attacks.transforms import draw
from tests.toolkit import attack_nets as nets

PLAIN = {"eps": 12.0, "erosion": 0.0, "feature_weight": 0.0}
LABELS, KEYS = torch.tensor([0, 1, 2]), ["x", "y", "z"]


@cache
def surrogates():
    models = [nets.classifier(m) for m in (nets.three, nets.other_three, nets.learner)]
    return prepare(models, Settings(erosion=0.0))


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 3, *nets.SIZE), generator=generator) / 255


def logits_of(model, x):
    return model(x, torch.ones(len(x), model.width)).logits


def gradient_of(x, *fused):
    """Gradient of the cross-entropy of the mean of logits; numbers stand for themselves."""
    leaf = x.detach().requires_grad_(True)
    parts = [part(leaf) if callable(part) else part for part in fused]
    loss = functional.cross_entropy(sum(parts) / len(parts), LABELS, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


def member(k):
    return lambda x: logits_of(surrogates()[k], x)


def project(x, clean, eps=12.0):
    return (clean + (x - clean).clamp(-eps / 255, eps / 255)).clamp(0, 1)


def unit(gradient):
    return gradient / gradient.abs().mean((1, 2, 3), keepdim=True)


def iterated(direction, chosen):
    """The outer loop, a second time: momentum on unit gradients."""
    clean = images()
    x, memory = clean.clone(), 0.0
    for step in range(chosen.steps):
        memory = chosen.decay * memory + unit(direction(x, step))
        x = project(x + chosen.alpha * memory.sign(), clean)
    return x


def agree(chosen, direction):
    clean = images()
    found = attack(surrogates(), clean, LABELS, KEYS, chosen).images
    wanted = iterated(direction, chosen)
    apart = (quantise(found, clean, 12).int() - quantise(wanted, clean, 12).int()) != 0
    assert apart.float().mean() < 0.005  # gradients so near 0 that rounding decides their sign


def test_a_minigroup_of_one_takes_turns_and_remembers_the_others_logits():
    last = {}

    def direction(x, step):
        turn = step % 3
        others = [last[k] for k in sorted(last) if k != turn]
        gradient = gradient_of(x, member(turn), *others)
        last[turn] = logits_of(surrogates()[turn], x).detach()
        return gradient

    agree(Settings(**PLAIN, steps=7, group=1), direction)


def test_what_is_remembered_is_felt():
    """Without the others' logits, a minigroup of one would climb another loss."""
    chosen = Settings(**PLAIN, steps=7, group=1)
    found = attack(surrogates(), images(), LABELS, KEYS, chosen).images
    forgetful = iterated(lambda x, step: gradient_of(x, member(step % 3)), chosen)
    assert ((found - forgetful).abs() > 1e-6).float().mean() > 0.02


@pytest.mark.parametrize(
    ("group", "turns"),
    [
        (1, [[0], [1], [2], [0]]),
        (2, [[0, 1], [2, 0], [1, 2], [0, 1]]),
        (3, [[0, 1, 2]] * 4),
        (4, [[0, 1, 2]] * 4),
        (0, [[0, 1, 2]] * 4),
    ],
)
def test_minigroups_take_turns(group, turns):
    passes = Passes(surrogates(), images(), LABELS, KEYS, Settings(**PLAIN, group=group))
    assert [list(passes.group(step)) for step in range(4)] == turns


def test_svre_walks_on_single_models_and_corrects_their_variance():
    chosen = Settings(**PLAIN, steps=3, method="svre", samples=2, decay=0.9, seed=3)
    clean = images()

    def direction(x, step):
        inner, memory = x, 0.0
        everyone = gradient_of(x, *(member(k) for k in range(3)))
        for m in range(2 * 3):
            k = directions.chosen(3, 3, step, m)
            corrected = gradient_of(inner, member(k)) - gradient_of(x, member(k)) + everyone
            memory = 0.9 * memory + corrected
            inner = project(inner + chosen.alpha * memory.sign(), clean)
        return memory

    agree(chosen, direction)


@pytest.mark.parametrize("targeted", [False, True])
def test_smer_walks_over_all_models_and_weighs_them_by_what_is_left_to_do(targeted):
    chosen = Settings(
        **PLAIN, steps=3, method="smer", samples=2, seed=3, targeted=targeted, loss="ce"
    )
    clean, sign = images(), -1 if targeted else 1

    def direction(x, step):
        inner, memory, total = x, 0.0, 0.0
        weight = [torch.full((3,), 1 / 3) for _ in range(3)]
        for m in range(2):
            order = draw([f"{step}/{m}"], 3, 3, "smer")[0].argsort().tolist()
            for k in order:
                chance = logits_of(surrogates()[k], inner).softmax(1)[range(3), LABELS]
                weight[k] = (1 - chance if targeted else chance).detach().exp()
                share = 3 * weight[k] / sum(weight)
                step_of = share[:, None, None, None] * unit(sign * gradient_of(inner, member(k)))
                memory, total = memory + step_of, total + step_of
                inner = project(inner + chosen.alpha * memory.sign(), clean)
        return total

    agree(chosen, direction)


def around(passes_before, x, radius):
    """The neighbour of draw number ``passes_before``."""
    flat = draw(KEYS, x[0].numel(), 3, "neighbour", passes_before).reshape(x.shape)
    return x + radius * 12 / 255 * (2 * flat - 1)


def test_vmi_corrects_by_the_neighbours_of_the_step_before():
    chosen = Settings(**PLAIN, steps=3, method="vmi", samples=2, radius=1.5, seed=3)
    everyone, kept = [member(k) for k in range(3)], []

    def direction(x, step):
        gradient = gradient_of(x, *everyone)
        near = [gradient_of(around(3 * step + 1 + n, x, 1.5), *everyone) for n in range(2)]
        corrected = gradient + (kept[-1] if kept else 0)
        kept.append(sum(near) / 2 - gradient)
        return corrected

    agree(chosen, direction)


def test_pgn_looks_a_step_back_from_each_neighbour():
    chosen = Settings(**PLAIN, steps=3, method="pgn", samples=2, radius=3.0, seed=3)
    everyone = [member(k) for k in range(3)]

    def direction(x, step):
        total = 0.0
        for n in range(2):
            near = around(4 * step + 2 * n, x, 3.0)
            first = gradient_of(near, *everyone)
            back = near - chosen.alpha * unit(first)
            total = total + (first + gradient_of(back, *everyone)) / 2
        return total

    agree(chosen, direction)


def test_nesterov_looks_ahead_along_the_memory():
    chosen = Settings(**PLAIN, steps=4, nesterov=True, decay=0.8)
    clean, everyone = images(), [member(k) for k in range(3)]
    x, memory = clean.clone(), torch.zeros_like(clean)
    for _ in range(4):
        ahead = x + chosen.alpha * 0.8 * memory
        memory = 0.8 * memory + unit(gradient_of(ahead, *everyone))
        x = project(x + chosen.alpha * memory.sign(), clean)
    found = attack(surrogates(), clean, LABELS, KEYS, chosen).images
    assert ((found - x).abs() > 1e-6).float().mean() < 0.005


@pytest.mark.parametrize("radius", [0.0, 0.5, 2.0])
def test_neighbours_are_inside_the_radius_each_its_own(radius):
    chosen = Settings(**PLAIN, radius=radius)
    passes = Passes(surrogates(), images(), LABELS, KEYS, chosen)
    near = directions.neighbour(passes, images(), chosen)
    reach = radius * 12 / 255
    apart = (near - images()).abs()
    assert apart.max() <= reach + 1e-6
    assert apart.max() >= 0.97 * reach
    if radius:
        passes.draw += 1
        later = directions.neighbour(passes, images(), chosen)
        assert not torch.equal(near, later)
        assert not torch.allclose(near[0] - images()[0], near[1] - images()[1])


def test_the_surrogate_that_svre_looks_at_varies():
    drawn = [directions.chosen(0, 3, step, m) for step in range(20) for m in range(3)]
    assert set(drawn) == {0, 1, 2}
    assert drawn != [directions.chosen(1, 3, step, m) for step in range(20) for m in range(3)]


def test_adaptive_features_count_as_far_as_they_agree():
    first, second = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(1))
    second[0] = first[0] * 3  # agrees in full
    second[1] = -first[1]  # disagrees in full
    memories, arrived = [None], []
    for coefficient in (first, second):
        x = torch.zeros(3, 2, 4, requires_grad=True)
        tap = 1 * x
        remember(tap, memories, 0, 0.5, adaptive=True)
        arrived.append(torch.autograd.grad((coefficient * tap).sum(), x)[0])
    torch.testing.assert_close(arrived[0], first)
    cosine = torch.cosine_similarity(second.flatten(1), first.flatten(1)).clamp(min=0)
    size = second.abs().sum((1, 2)) / first.abs().sum((1, 2))
    wanted = second + (0.5 * cosine * size)[:, None, None] * first
    torch.testing.assert_close(arrived[1], wanted)
    torch.testing.assert_close(arrived[1][0], 1.5 * second[0])
    torch.testing.assert_close(arrived[1][1], second[1])


def mixed(model, images, partner, shares):
    """Skipping with each convolution's result mixed with the partner's."""
    net = model.core
    stem = net.stem(4 * partner - 2)
    clean = [stem, net.main(functional.silu(stem))]
    now = torch.lerp(net.stem(4 * images - 2), clean[0], shares[0][:, :, None, None])
    x = functional.silu(now)
    y = torch.lerp(net.main(x), clean[1], shares[1][:, :, None, None])
    x = functional.silu(x + y)
    return net.head(functional.avg_pool2d(x, 2).flatten(1))


def test_mix_up_takes_in_a_partners_features(monkeypatch):
    """Every place, so that each share is felt: the drawn ones, times the largest."""
    monkeypatch.setattr(passes_module, "MIXED_PLACES", 1.1)
    model, bank = nets.classifier(nets.three), images(5)[:2]
    chosen = Settings(**PLAIN, steps=1, mixup=0.6, seed=3)
    seen = Passes(prepare([model], chosen), images(), LABELS, KEYS, chosen, bank)
    assert seen.count == 1  # the partners' own pass
    which = (draw(KEYS, 1, 3, "partner")[:, 0] * 2).long()
    shares = (0.6 * draw(KEYS, 12, 3, "mixup", 0, 0)).split(6, dim=1)
    leaf = images().requires_grad_(True)
    wanted = mixed(model, leaf, bank[which], shares)
    torch.testing.assert_close(seen.see(images(), 0), wanted)
    loss = functional.cross_entropy(wanted, LABELS, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(seen.gradient(images(), [0]), gradient)
    assert (wanted - logits_of(model_of(model), images())).abs().max() > 1e-3


def model_of(model):
    (plain,) = prepare([model], Settings(**PLAIN))
    return plain


def test_mix_up_chooses_places_by_chance_and_its_passes_count():
    chosen = Settings(**PLAIN, steps=3, mixup=0.6)
    models = prepare([nets.classifier(nets.three), nets.classifier(nets.other_three)], chosen)
    calls = []
    hooks = [model.register_forward_hook(lambda *_: calls.append(1)) for model in models]
    found = attack(models, images(), LABELS, KEYS, chosen, images(5))
    for hook in hooks:
        hook.remove()
    assert found.passes == len(calls) == cost(chosen, 2) == 8
    order = [2, 0, 1]
    turned = attack(
        models, images()[order], LABELS[order], [KEYS[i] for i in order], chosen, images(5)
    )
    torch.testing.assert_close(turned.images, found.images[order], rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="mix-up has no other image"):
        attack(models, images(), LABELS, KEYS, chosen)
    seen = Passes(models, images(), LABELS, KEYS, chosen, images(5))
    touched = []
    for _ in range(60):
        seen.draw += 1
        seen.mix(0)
        mixer = passes_module.mixer_of(models[0])
        touched += [bool((share[n] > 0).any()) for share in mixer.shares for n in range(3)]
        assert all(share.max() <= 0.6 for share in mixer.shares)
    assert sum(touched) / len(touched) == pytest.approx(passes_module.MIXED_PLACES, abs=0.06)


def test_a_gradient_that_is_not_finite_names_who_passed():
    """Scores may be finite where the way back is not."""

    class Root(torch.nn.Module):
        input_size = nets.SIZE

        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 3)

        def forward(self, image):
            flat = (image - image.detach()).abs().sqrt()
            return self.head(torch.relu(image + flat).mean((2, 3)))

    (model,) = prepare([nets.classifier(Root)], Settings(**PLAIN))
    with pytest.raises(ModelError, match="the gradient of Root is not finite"):
        attack([model], images(), LABELS, KEYS, Settings(**PLAIN, steps=1))


def test_mixed_precision_runs_the_networks_in_bfloat16_and_nothing_else():
    models = prepare([nets.classifier(nets.three)], Settings(**PLAIN))
    seen = []
    models[0].register_forward_hook(
        lambda _, __, out: seen.append((torch.is_autocast_enabled("cpu"), out.logits.dtype))
    )
    full = attack(models, images(), LABELS, KEYS, Settings(**PLAIN, steps=2)).images
    low = attack(models, images(), LABELS, KEYS, Settings(**PLAIN, steps=2, precision="bf16"))
    assert seen == [(False, torch.float32)] * 2 + [(True, torch.bfloat16)] * 2
    assert low.images.dtype == torch.float32
    assert ((low.images - full).abs() < 1e-6).float().mean() > 0.8
