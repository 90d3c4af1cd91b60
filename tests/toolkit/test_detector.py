"""The detector beside a classifier: it changes no class, learns apart from them, and is scored."""

from math import e, log

import pytest
import torch
from torch.nn import functional

from deepfusion_edge.fusion import feature_variance
from deepfusion_toolkit.harden import noticing, places
from deepfusion_toolkit.harden.detector import (
    CALM,
    FEATURES,
    SILENT,
    Detector,
    belongs,
    detector_of,
    replace_detector,
    watched,
)
from deepfusion_toolkit.harden.images import Images, stream
from deepfusion_toolkit.harden.judge import Exam
from deepfusion_toolkit.harden.noticing import detection, teach
from deepfusion_toolkit.harden.pool import Examples, pairs_of
from deepfusion_toolkit.models import load, save
from deepfusion_toolkit.surgery import erode, find_sites
from deepfusion_toolkit.surgery.cost import multiply_adds
from deepfusion_toolkit.surgery.graph import following_batches, trace
from deepfusion_toolkit.surgery.members import spread
from tests.toolkit import tiny_nets


def shown(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, *tiny_nets.SIZE), generator=draw)


def test_classes_do_not_depend_on_it_before_and_after_saving(tiny, tmp_path):
    made = watched(tiny, 0).model
    images = shown(3)
    assert torch.equal(made(images), tiny(images))
    save(made.core, made.size, tmp_path / "m.pt2")
    again = load(str(tmp_path / "m.pt2"), image_size=made.size)
    assert torch.allclose(again(images), tiny(images), atol=1e-6)
    kinds = ("skip", "activation")
    sites = [find_sites(trace(m.core, m.size), kinds, places.BASE) for m in (made, again)]
    assert sites[0] == sites[1]  # the plan fits the file
    assert watched(again, 1).model is again  # one is enough


def test_its_cost_is_told(tiny):
    made, network = watched(tiny, 0)
    both = [sum(multiply_adds(n) for n in trace(m.core, m.size).inside) for m in (tiny, made)]
    assert network == pytest.approx(both[1] / both[0])
    assert network > 1
    assert watched(made, 0).network == network


def test_neither_learns_from_the_other(tiny_residual):
    made = watched(tiny_residual, 0).model
    eroded = erode(made, places.tails(made, 0.2)[-1])
    live, factors = spread(eroded.graph_module), torch.ones(8, eroded.width)
    weights = dict(eroded.graph_module.named_parameters())
    for weight in weights.values():
        weight.requires_grad_(True)
    for of_detector in (False, True):
        for weight in weights.values():
            weight.grad = None
        logits, features = live(shown(2), factors)
        assert features.shape == (8, FEATURES)
        (features if of_detector else logits.square()).sum().backward()
        moved = {n for n, w in weights.items() if w.grad is not None and w.grad.abs().sum() > 0}
        assert moved
        assert all(belongs(name) == of_detector for name in moved)


def test_its_answer_is_the_level_that_softplus_hides():
    detector = Detector(2).eval()
    linear = detector.head[0]
    for level in (-9.0, -1.0, 0.0, 4.0, 400.0):
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.fill_(level)
        image = shown(1).requires_grad_(True)
        answer = detector(image)
        assert float(answer.detach()) == pytest.approx(level, abs=2e-3)
        assert torch.isfinite(torch.autograd.grad(answer.sum(), linear.bias)[0]).all()
    with torch.no_grad():
        linear.bias.fill_(-50.0)
    assert float(detector(shown(1)).detach()) == pytest.approx(log(SILENT), rel=1e-3)


def test_the_score_grows_with_the_level():
    draw = torch.Generator().manual_seed(0)
    kept = (torch.rand((4, FEATURES), generator=draw) < 0.9).float() / 0.9
    scores = []
    for level in (-8.0, -4.0, -1.0, 0.0, 1.0, 4.0, 20.0, 40.0):
        growth = functional.softplus(torch.tensor(level))
        scores.append(feature_variance((CALM + growth * kept).numpy()))
    assert scores == sorted(scores)
    assert scores[-1] > 1000 * scores[0]


def noisy_squares(count, seed=0):
    """Make smooth images and the same ones with noise: what a source of the pool would give."""
    draw = torch.Generator().manual_seed(seed)
    smooth = functional.interpolate(
        torch.rand((count, 3, 4, 4), generator=draw), size=32, mode="bilinear"
    )
    noise = 8 * torch.randn(smooth.shape, generator=draw).sign()
    pixels = (255 * smooth).round()
    labels, keys = torch.zeros(count).long(), tuple(map(str, range(count)))
    images = Images(pixels.byte(), labels, keys)
    return images, Examples((pixels + noise).clamp(0, 255).byte(), torch.arange(count))


def nothing_is_done(shown):
    return shown


def test_it_learns_to_notice_noise_in_seconds(monkeypatch):
    monkeypatch.setattr(noticing, "ROUNDS", 2)
    images, noise = noisy_squares(128)
    held, other = noisy_squares(64, seed=1)
    same = Examples(images.pixels, torch.arange(128))  # an attack that nobody can notice
    exam = Exam(held, {"noise": held._replace(pixels=other.pixels), "nothing": held})
    torch.manual_seed(0)
    detector = Detector(2)
    found = teach(detector, nothing_is_done, images, [noise, same], exam, 0)
    assert not detector.training
    assert found[-1].auroc["noise"] == 1
    assert found[-1].auroc["nothing"] == 0.5
    assert found[-1].odds["nothing"] > found[-1].odds["noise"]  # what is noticed least comes most
    torch.manual_seed(0)
    again = Detector(2)
    assert teach(again, nothing_is_done, images, [noise, same], exam, 0) == found
    assert all(map(torch.equal, again.parameters(), detector.parameters()))


def test_pairs_are_of_likely_sources_and_differ_in_the_attack_alone():
    pixels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    pixels[2], pixels[3] = 2, 3
    images = Images(pixels, torch.tensor([0, 1, 0, 1]), tuple("abcd"))
    examples = [
        Examples(torch.full((2, 3, 2, 2), value, dtype=torch.uint8), torch.tensor(origin))
        for value, origin in ((110, [0, 1]), (202, [2, 3]))
    ]
    found = pairs_of(images, examples, [0.0, 1.0], 12, stream(0, "t"))
    base, moved = (torch.round(one * 255).amax((1, 2, 3)) for one in found[:2])
    assert torch.equal(base, found.origin.float())
    assert set(base.tolist()) == {2, 3}
    assert moved.max() == 202  # whole perturbations of the likely source
    assert len(set((moved - base).tolist())) > 2  # and shares of them
    assert ((moved - base) >= 99).all()
    again = pairs_of(images, examples, [0.0, 1.0], 12, stream(0, "t"))
    assert all(map(torch.equal, found, again))


def test_clean_and_attacked_images_weigh_the_same():
    levels = torch.tensor([0.0, 2.0, 1.0, 1.0])
    unseen = (log(2) + log(1 + e**2)) / 2 / 2 + log(1 + e**-1) / 2
    assert float(detection(levels)) == pytest.approx(unseen, rel=1e-5)


def test_what_was_taught_is_the_models_own_also_after_saving(tiny_residual, tmp_path):
    made = watched(tiny_residual, 0).model
    trained, images = detector_of(made), shown(2)
    with torch.no_grad():
        for name, weight in trained.state_dict().items():
            if weight.is_floating_point() and name != "unheard":
                weight.uniform_(0.5, 1.0)
    logits, answer = made(images), trained.eval()(images)
    assert not torch.equal(detector_of(made).eval()(images), answer)
    replace_detector(made, trained)
    assert torch.equal(made(images), logits)
    assert torch.equal(detector_of(made).eval()(images), answer)
    save(made.core, made.size, tmp_path / "m.pt2")
    again = load(str(tmp_path / "m.pt2"), image_size=made.size)
    assert torch.equal(detector_of(again).eval()(images), answer)


def test_training_the_classes_leaves_its_norms_alone(tiny_residual):
    made = watched(tiny_residual, 0).model
    live = following_batches(erode(made, places.tails(made, 0.2)[-1]).graph_module, leaving=belongs)
    norms = {n: b.clone() for n, b in live.named_buffers() if n.endswith("running_mean")}
    live(shown(2)[:1], torch.ones(2, sum(s.channels for s in places.tails(made, 0.2)[-1])))
    moved = {n for n, b in live.named_buffers() if n in norms and not torch.equal(b, norms[n])}
    assert moved
    assert moved == {n for n in norms if not belongs(n)}
