"""Parts of hardening against known answers: odds, ranking loss, pool, plans, epochs."""

from itertools import pairwise
from math import e, log
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from deepfusion_edge import fusion
from deepfusion_edge.erosion import Site
from deepfusion_toolkit.augment import across
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden import places, pool, sampling
from deepfusion_toolkit.harden.budget import blend
from deepfusion_toolkit.harden.checkpoint import Epoch, State
from deepfusion_toolkit.harden.images import Images, images_of
from deepfusion_toolkit.harden.itself import OnItself
from deepfusion_toolkit.harden.judge import Exam, Figures, auroc, examine
from deepfusion_toolkit.harden.learner import Learner
from deepfusion_toolkit.harden.lessons import HARD, Transfer, stream
from deepfusion_toolkit.harden.loss import (
    LIGHT,
    MARGIN,
    WEIGHT,
    loss_of,
    ranking,
    relative_variance,
)
from deepfusion_toolkit.harden.pool import Examples, Workshop, sources_of
from deepfusion_toolkit.harden.search import Point, pareto, ranked
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.harden.training import (
    ENOUGH,
    GOOD,
    PATIENCE,
    best,
    detector_first,
    stopped,
    teacher_of,
)
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import Work, erode, find_sites
from deepfusion_toolkit.surgery.graph import trace
from tests.toolkit import attack_nets as nets
from tests.toolkit import tiny_nets


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(1, 500))
def test_odds_sum_to_one_favour_the_worst_and_forget_nobody(robust, count):
    odds = sampling.weights(robust, [count] * len(robust))
    assert sum(odds) == pytest.approx(1)
    assert min(odds) >= sampling.FLOOR / len(odds)
    assert odds[int(np.argmin(robust))] == max(odds)


def test_the_score_is_the_devices():
    features = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0))
    wanted = [fusion.feature_variance(features[:, n].numpy()) for n in range(3)]
    assert relative_variance(features).tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_ranking_asks_for_its_margin_and_no_more():
    clean = torch.tensor([1.0, 1.0])
    assert ranking(torch.cat((clean, clean * e**MARGIN * 1.01)), 2) == 0
    assert float(ranking(torch.cat((clean, clean)), 2)) == pytest.approx(MARGIN, rel=1e-4)
    assert float(ranking(torch.tensor([2.0, 1.0]), 1)) == pytest.approx(MARGIN + log(2), rel=1e-4)


def test_the_loss_is_cross_entropy_where_nothing_is_attacked():
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 2.0]]])
    told = torch.zeros(2, 1)
    found = loss_of(logits, torch.ones(2, 1, 3), told, torch.tensor([[1.0, 0.0]]), 0, 0, 2.0)
    wanted = (log(1 + e**-1) + log(1 + e)) / 2
    assert float(found.total(detector_first=False)) == pytest.approx(wanted, rel=1e-5)


def test_clean_and_attacked_images_weigh_the_same_however_many():
    logits = torch.zeros(2, 3, 2)
    logits[:, 2, 1] = 2.0  # the attacked one is wrong
    features = torch.ones(2, 3, 4)
    features[1, 2] = 9.0  # and its score so high that the ranking is content
    wanted = torch.tensor([[1.0, 0.0]] * 3)
    told = torch.tensor([[0.0, 2.0, 1.0]] * 2)  # one of the clean ones looks attacked
    found = loss_of(logits, features, told, wanted, 1, 1, 1.0)
    right = (log(2) + log(1 + e**2)) / 2
    assert float(found.right) == pytest.approx(right, rel=1e-5)
    assert found.ranked == 0
    unseen = ((log(2) + log(1 + e**2)) / 2 + log(1 + e**-1)) / 2
    assert float(found.detected) == pytest.approx(unseen, rel=1e-5)
    total = found.total(detector_first=False)
    assert float(total) == pytest.approx(right + WEIGHT * unseen, rel=1e-5)
    first = found.total(detector_first=True)
    assert float(first) == pytest.approx(unseen + LIGHT * right, rel=1e-5)
    harder = loss_of(logits, features, told, wanted, 1, 1, 1.0, 0.75)
    right = (log(2) + 3 * log(1 + e**2)) / 4
    assert float(harder.right) == pytest.approx(right, rel=1e-5)
    assert harder.detected == found.detected


def test_attacked_images_that_are_not_scored_count_for_the_classes_alone():
    draw = torch.Generator().manual_seed(0)
    logits, features = (torch.randn(2, 5, n, generator=draw) for n in (2, 4))
    told, wanted = torch.randn(2, 5, generator=draw), torch.full((5, 2), 0.5)
    found = loss_of(logits, features, told, wanted, 3, 2, 1.0)
    kept = torch.tensor([0, 1, 3, 4])  # the third image is attacked and not scored
    without = [part[:, kept] for part in (logits, features, told)]
    other = loss_of(*without, wanted[kept], 2, 2, 1.0)
    assert (found.ranked, found.detected) == (other.ranked, other.detected)
    assert found.right != other.right


def test_the_detector_comes_first_until_it_is_good_but_not_for_long():
    def epochs(*unseen):
        return [Epoch(n, 1.0, Figures(0.5, {}, 0.5), {}, True, u) for n, u in enumerate(unseen, 1)]

    settings = Settings(epochs=9)
    assert detector_first([], settings)
    assert detector_first(epochs(0.6, GOOD + 0.01), settings)
    assert not detector_first(epochs(0.6, GOOD - 0.01), settings)
    assert not detector_first(epochs(GOOD - 0.01, 0.6), settings)  # and never again
    assert not detector_first(epochs(0.6, 0.6, 0.6), settings)
    assert not detector_first([], Settings(epochs=9, method="adversarial"))
    assert not detector_first([], Settings(epochs=0))


def test_auroc_counts_ties_by_half():
    low, high = np.array([0.0, 1.0]), np.array([1.0, 2.0])
    assert auroc(low, high) == pytest.approx(3.5 / 4)
    assert auroc(high, high) == 0.5


@pytest.fixture
def images(tmp_path):
    return images_of(folder.load(nets.squares(tmp_path / "data", each=12)), (16, 16))


def test_every_source_crafts_within_its_budget_and_others_of_its_own(images, tmp_path):
    public = [nets.classifier(nets.public), nets.classifier(nets.learner)]
    workshop = Workshop(public, Settings(eps=6, steps=1), tmp_path / "pool", "cpu")
    workshop.sources = [s for s in workshop.sources if s.attack == "mi"]
    made = workshop.craft(images, 33, "examples")
    assert [s.name for s in workshop.sources] == ["mi on public", "mi on learner"]
    for one in made:
        apart = (one.pixels.int() - images.pixels[one.origin].int()).abs().amax((1, 2, 3))
        assert apart[:32].max() == 6
        assert apart[32:].max() == 3  # the second batch has half of the budget
        assert apart.min() > 0
    assert made[0].origin.tolist() != made[1].origin.tolist()
    files = {p.name for p in (tmp_path / "pool").iterdir()}
    assert len(files) == 4
    again = Workshop(public, Settings(eps=6, steps=1), tmp_path / "pool", "cpu")
    again.sources = workshop.sources
    again._surrogate = None  # all is there: nobody may be asked
    for one, other in zip(made, again.craft(images, 33, "examples"), strict=True):
        assert torch.equal(one.pixels, other.pixels)
    other = Workshop(public, Settings(eps=6, steps=1, seed=1), tmp_path / "pool", "cpu")
    other.sources = workshop.sources[:1]
    other._prepared = workshop._prepared
    other.craft(images, 8, "examples")
    assert len(list((tmp_path / "pool").iterdir())) == 5


def test_clean_images_are_turned_and_pairs_are_not():
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    pixels[..., 0] = 100  # the left half
    images = Images(pixels, torch.tensor([0]), ("a",))
    example = Examples(torch.where(pixels > 0, 120, 0).byte(), torch.tensor([0]))
    teacher = Transfer(
        images, [example], [1.0], (across,), lambda x: torch.ones(len(x), 1), None, 1
    )
    shown = teacher.lesson(torch.zeros(20, dtype=torch.long), stream(0, "t")).images
    bright = (shown[:, 0, 0] > 0).tolist()
    assert {tuple(one) for one in bright[:20]} == {(True, False), (False, True)}
    assert bright[20:] == [[True, False]] * 40


def test_sources_are_told_apart():
    twins = [nets.classifier(nets.public), nets.classifier(nets.public)]
    names = [s.name for s in sources_of(twins, 10)]
    assert len(set(names)) == len(names)
    assert "mi on public 2" in names
    alone = [(s.name, s.passes) for s in sources_of(twins[:1], 10)]
    assert len(alone) == len(set(alone)) == len(pool.TOGETHER) + 1
    for source in sources_of(twins, 1):  # a pass for each surrogate is always enough
        assert source.passes >= len(source.surrogates)


def test_a_lesson_has_clean_images_and_pairs_of_likely_sources():
    pixels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    pixels[2], pixels[3] = 2, 3
    images = Images(pixels, torch.tensor([0, 1, 0, 1]), tuple("abcd"))
    examples = [
        Examples(torch.full((2, 3, 2, 2), value, dtype=torch.uint8), torch.tensor(origin))
        for value, origin in ((110, [0, 1]), (202, [2, 3]))
    ]
    asked = []

    def undefended(shown):
        asked.append(shown)
        return torch.tensor([[0.25, 0.75]]).expand(len(shown), -1)

    teacher = Transfer(images, examples, [0.0, 1.0], (), undefended, None, 2)
    lesson = teacher.lesson(torch.tensor([1, 1, 1, 1, 1, 1]), stream(0, "t"))
    assert lesson.attacked == lesson.scored == 6
    assert lesson.weight == 0.5
    shown = torch.round(lesson.images * 255)
    assert shown[:6].max() == 0
    # what an example differs in from its own clean image is the attack alone
    base, moved = shown[6:12].amax((1, 2, 3)), shown[12:].amax((1, 2, 3))
    assert set(base.tolist()) == {2, 3}
    assert torch.equal(lesson.wanted[6:12], lesson.wanted[12:])
    assert lesson.wanted[6:12].argmax(1).tolist() == (base == 3).int().tolist()
    assert moved.max() == 202  # whole perturbations of the likely source
    assert len(set((moved - base).tolist())) > 2  # and shares of them
    assert ((moved - base) >= 99).all()
    # of clean images the undefended model is heard beside the label
    assert torch.equal(asked[0], lesson.images[:12])
    assert lesson.wanted[:6].tolist() == [[0.125, 0.875]] * 6
    again = teacher.lesson(torch.tensor([1, 1, 1, 1, 1, 1]), stream(0, "t"))
    assert torch.equal(lesson.images, again.images)


def eroded_end(base):
    sites = find_sites(trace(base.core, base.size), ("activation",), {"activation": 0.2})
    return erode(base, sites[-1:])


def test_clean_images_are_attacked_on_the_model_as_it_is_beside_the_pool():
    base = nets.classifier(nets.public)
    model = Defended(eroded_end(base))
    draw = stream(0, "own")
    pixels = torch.randint(0, 256, (4, 3, *base.size), generator=draw, dtype=torch.uint8)
    images = Images(pixels, torch.tensor([0, 1, 0, 1]), tuple("abcd"))
    same = Examples(pixels, torch.arange(4))  # a pool that moves nothing
    itself = OnItself(model, Settings(eps=4), 3)

    def undefended(shown):
        return torch.ones(len(shown), base.classes)

    def lesson(seed):
        teacher = Transfer(images, [same], [1.0], (across,), undefended, itself, base.classes)
        return teacher.lesson(torch.arange(4), stream(seed, "t"))

    found = lesson(0)
    # two pairs beside four images that are shown and attacked
    assert (found.attacked, found.scored, found.weight) == (6, 2, HARD)
    shown, origin, own, made = found.images.split((4, 2, 4, 2))
    assert torch.equal(made, origin)  # pairs are left alone
    moved = ((own - shown) * 255).flatten(1)  # turned images are attacked as they are shown
    assert (moved.abs().amax(1).round() == 4).all()
    assert torch.allclose(moved, moved.round(), atol=1e-3)
    assert torch.equal(found.wanted[:6], found.wanted[6:])
    assert torch.equal(found.images, lesson(0).images)  # the seed decides
    assert not torch.equal(own, lesson(1).images[6:10])

    def right(shown, labels):
        ones = torch.ones(len(shown), 1, *model.widths)
        return float(functional.cross_entropy(model(shown, ones).fused.log(), labels))

    made = itself(images, stream(1, "own"))
    noise = (torch.rand(made.shape, generator=draw) * 8 - 4).round() / 255
    noisy = (images.pixels / 255 + noise).clamp(0, 1)
    assert right(made, images.labels) > right(noisy, images.labels)  # and not noise
    with torch.no_grad():
        next(model.parameters()).mul_(-1)  # the model goes on
    assert not torch.equal(made, itself(images, stream(1, "own")))


def test_as_long_as_attacks_are_only_told_none_is_made_on_the_model():
    teachers = [teacher_at(unseen) for unseen in (GOOD + 0.1, GOOD - 0.1)]
    assert [teacher.itself is None for teacher in teachers] == [True, False]
    assert teacher_at(GOOD - 0.1, ENOUGH - 1).itself is None  # nor in a run that is too short


def teacher_at(unseen, epochs=ENOUGH):
    """Give what the second epoch is taught by."""
    base = nets.classifier(nets.public)
    eroded = eroded_end(base)
    settings = Settings(epochs=epochs)
    learner = Learner(Defended(eroded), settings, 4, base.classes)
    images = Images(torch.zeros(4, 3, *base.size).byte(), torch.zeros(4).long(), tuple("abcd"))
    examples = [Examples(images.pixels, torch.arange(4))]
    epoch = Epoch(1, 1.0, Figures(0.5, {"a": 0.5}, 0.5), {}, True, unseen)
    state = State(learner.weights, {}, epochs=[epoch])
    return teacher_of(learner, images, examples, Exam(images, {"a": images}), (), state)


def test_tails_are_late_nested_and_heard_by_the_features():
    model = Classifier(tiny_nets.trained("residual"), name="r", size=tiny_nets.SIZE)
    found = places.tails(model, 0.2)
    assert len(found) > 1
    for longer, shorter in pairwise(found):
        assert longer[-len(shorter) :] == shorter
    # dropout right before the scored features changes every image alike
    traced = trace(model.core, model.size)
    last = find_sites(traced, ("activation",), {"activation": 0.1})[-1]
    assert not places._heard(traced, last)
    assert all(tail[0] != last for tail in found)


def test_few_members_are_the_first_of_many(images):
    model = nets.classifier(nets.learner)
    sites = find_sites(trace(model.core, model.size), ("skip",), {"skip": 0.5})
    eroded = Defended(erode(model, sites))
    exam = Exam(images, {"same": images})
    both = examine(eroded, exam, (2, 8), 0)
    assert both[2] == examine(eroded, exam, (2,), 0)[2]
    assert both[8].auroc == 0.5  # the same images: nothing to tell apart
    assert both[8].robust["same"] == both[8].clean


def point(clean, robust, auroc_, members, share=0.5, strength=1.0):
    sites = (Site("skip:a", "skip", 1, 0.4),)
    model = SimpleNamespace(sites=sites)
    return Point(
        model,
        Work(share),
        strength,
        members,
        Figures(clean, {"a": robust} if robust else {}, auroc_),
    )


def test_plans_are_ranked_within_the_budget_and_the_cheaper_of_equals_wins():
    good, cheap = point(0.9, 0.9, 0.9, 8), point(0.9, 0.899, 0.9, 2)
    broken, poor = point(0.8, 1.0, 1.0, 2), point(1.0, 0.5, 0.5, 2)
    assert ranked([good, broken, poor, cheap], 0.89) == [cheap, good, poor]
    weak, strong = point(1, 0, 0.5, 8, strength=0.1), point(1, 0, 0.5, 8, strength=2.0)
    assert ranked([weak, strong], 0.9)[0] is strong  # nothing attacked: members that differ
    assert good.cost == 1 + 7 * 0.5


def test_the_front_holds_what_nothing_beats():
    a, b, c = point(0.9, 0.9, 0.9, 2), point(0.9, 0.9, 0.9, 4), point(0.95, 0.9, 0.9, 4)
    assert pareto([c, b, a]) == [a, c]


def test_the_best_epoch_keeps_the_budget_if_any_does():
    one = Epoch(1, 0.0, Figures(0.9, {"a": 0.5}, 0.5), {}, True)
    worthy = replace_epoch(one, number=2, figures=Figures(0.9, {"a": 1.0}, 0.5), kept=False)
    assert best([one, worthy]) is one
    assert best([replace_epoch(one, kept=False), worthy]) is worthy
    assert best([one, replace_epoch(one, number=3)]) is one  # the first of equals


def replace_epoch(epoch, **changes):
    return msgspec.structs.replace(epoch, **changes)


def test_mixed_weights_lie_between():
    first, last = (
        [torch.tensor([0.0, 2.0]), torch.tensor(1)],
        [torch.tensor([4.0, 2.0]), torch.tensor(5)],
    )
    (mixed, count) = blend(first, last, 0.25)
    assert mixed.tolist() == [1.0, 2.0]
    assert count == 5


def test_training_stops_when_nothing_gets_better():
    state = State([], {}, best_number=2)
    for number in range(1, 2 + PATIENCE):
        state.epochs.append(Epoch(number, 0.0, Figures(1, {}, 0.5), {}, True))
        assert not stopped(state, Settings())
    state.epochs.append(state.epochs[-1])
    assert stopped(state, Settings())


def test_epochs_of_the_detector_are_no_reason_to_stop():
    state = State([], {}, best_number=1)
    state.epochs = [Epoch(n, 0.0, Figures(1, {}, 0.5), {}, True, 0.6) for n in range(1, 11)]
    assert stopped(state, Settings(epochs=12))  # four were the detector's
    assert not stopped(state, Settings(epochs=15))
