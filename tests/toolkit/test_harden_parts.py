"""Parts of hardening against known answers: odds, lessons, pool, plans, epochs."""

from itertools import pairwise
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from deepfusion_edge.erosion import Site
from deepfusion_toolkit.augment import across
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden import places, pool, sampling
from deepfusion_toolkit.harden.budget import blend
from deepfusion_toolkit.harden.checkpoint import Epoch, State
from deepfusion_toolkit.harden.copies import copies_of
from deepfusion_toolkit.harden.detector import watched
from deepfusion_toolkit.harden.images import Images, images_of, stream
from deepfusion_toolkit.harden.itself import OnItself
from deepfusion_toolkit.harden.judge import Exam, Figures, auroc, examine
from deepfusion_toolkit.harden.learner import Learner
from deepfusion_toolkit.harden.lessons import Known, Transfer
from deepfusion_toolkit.harden.pool import Examples, Workshop, sources_of
from deepfusion_toolkit.harden.search import Point, pareto, ranked
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.harden.training import ENOUGH, PATIENCE, best, stopped, teacher_of
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import Work, erode, find_sites
from deepfusion_toolkit.surgery.graph import trace
from tests.toolkit import attack_nets as nets
from tests.toolkit import tiny_nets


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(1, 500))
def test_odds_sum_to_one_favour_the_least_noticed_and_forget_nobody(noticed, count):
    odds = sampling.weights(noticed, [count] * len(noticed))
    assert sum(odds) == pytest.approx(1)
    assert min(odds) >= sampling.FLOOR / len(odds)
    assert odds[int(np.argmin(noticed))] == max(odds)


def test_auroc_counts_ties_by_half():
    low, high = np.array([0.0, 1.0]), np.array([1.0, 2.0])
    assert auroc(low, high) == pytest.approx(3.5 / 4)
    assert auroc(high, high) == 0.5


@pytest.fixture
def images(tmp_path):
    return images_of(folder.load(nets.squares(tmp_path / "data", each=12)), (16, 16))


def test_every_source_crafts_within_its_budget_and_others_of_its_own(images, tmp_path):
    public = [nets.classifier(nets.public), nets.classifier(nets.learner)]
    workshop = Workshop(public, Settings(eps=6, steps=1), tmp_path / "pool")
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
    again = Workshop(public, Settings(eps=6, steps=1), tmp_path / "pool")
    again.sources = workshop.sources
    again._prepare = None  # all is there: nobody may be asked
    for one, other in zip(made, again.craft(images, 33, "examples"), strict=True):
        assert torch.equal(one.pixels, other.pixels)
    other = Workshop(public, Settings(eps=6, steps=1, seed=1), tmp_path / "pool")
    other.sources = workshop.sources[:1]
    other._prepared = workshop._prepared
    other.craft(images, 8, "examples")
    assert len(list((tmp_path / "pool").iterdir())) == 5


def test_sources_are_told_apart():
    twins = [nets.classifier(nets.public), nets.classifier(nets.public)]
    names = [s.name for s in sources_of(twins, 10)]
    assert len(set(names)) == len(names)
    assert "mi on public 2" in names
    alone = [(s.name, s.passes) for s in sources_of(twins[:1], 10)]
    assert len(alone) == len(set(alone)) == len(pool.TOGETHER) + 1
    for source in sources_of(twins, 1):  # a pass for each surrogate is always enough
        assert source.passes >= len(source.surrogates)


def eroded_end(base):
    sites = find_sites(trace(base.core, base.size), ("activation",), {"activation": 0.2})
    return erode(base, sites[-1:])


def test_images_are_turned_and_attacked_on_the_model_as_it_is():
    base = nets.classifier(nets.public)
    model = Defended(eroded_end(base))
    draw = stream(0, "own")
    pixels = torch.randint(8, 248, (8, 3, *base.size), generator=draw, dtype=torch.uint8)
    images = Images(pixels, torch.tensor([0, 1] * 4), tuple("abcdefgh"))
    itself = OnItself(copies_of(model, ["cpu"]), Settings(eps=4), 3)
    asked = []

    def undefended(shown):
        asked.append(shown)
        return torch.full((len(shown), base.classes), 0.5)

    def lesson(seed):
        teacher = Transfer(images, itself, (across,), undefended)
        return teacher.lesson(torch.arange(8), stream(seed, "t"))

    found = lesson(0)
    clean, own = found.images.split((2, 8))
    (shown,) = asked
    assert torch.equal(clean, shown[:2])
    mirrored = [not torch.equal(a, b) for a, b in zip(shown, pixels / 255, strict=True)]
    assert 0 < sum(mirrored) < 8
    moved = ((own - shown) * 255).flatten(1)  # turned images are attacked as they are shown
    size = moved.abs().amax(1).round()
    assert size.max() == 4
    assert size.min() >= 2  # half of the budget at the least
    assert torch.allclose(moved, moved.round(), atol=1e-3)
    # the undefended model is heard beside the label
    assert torch.equal(found.wanted[:2], found.wanted[2:4])
    heard = torch.tensor([[0.85, 0.15], [0.15, 0.85]] * 4)
    torch.testing.assert_close(found.wanted[2:, :2], heard)
    assert torch.equal(found.images, lesson(0).images)  # the seed decides
    assert not torch.equal(own, lesson(1).images[2:])

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


def test_the_undefended_model_is_attacked_in_its_turn_and_does_not_go_on():
    model = Defended(eroded_end(nets.classifier(nets.public)))
    draw = stream(0, "turn")
    pixels = torch.randint(8, 248, (4, 3, *model.size), generator=draw, dtype=torch.uint8)
    images = Images(pixels, torch.tensor([0, 1] * 2), tuple("abcd"))
    copies = copies_of(model, ["cpu"])
    alone, all_three = (OnItself(copies, Settings(eps=4), 1, undefended=u) for u in (False, True))

    def made(itself):
        return [itself(images, stream(n, "turn")) for n in range(12)]

    def other(network):
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(-1)

    other(copies[0].undefended)  # as if the model had learned
    before, own = made(all_three), made(alone)
    other(model)
    itself = [torch.equal(a, b) for a, b in zip(before, own, strict=True)]
    undefended = [torch.equal(a, b) for a, b in zip(before, made(all_three), strict=True)]
    assert sum(itself) > 0
    assert sum(undefended) > 0
    assert sum(itself) + sum(undefended) < 12  # the others are of both
    assert not any(torch.equal(a, b) for a, b in zip(own, made(alone), strict=True))


def test_few_epochs_learn_from_known_sources():
    pixels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    pixels[2], pixels[3] = 2, 3
    images = Images(pixels, torch.tensor([0, 1, 0, 1]), tuple("abcd"))
    examples = [Examples(torch.full((2, 3, 2, 2), 202, dtype=torch.uint8), torch.tensor([2, 3]))]

    def undefended(shown):
        return torch.tensor([[0.25, 0.75]]).expand(len(shown), -1)

    teacher = Known(images, examples, [1.0], (), undefended)
    found = teacher.lesson(torch.tensor([1] * 6), stream(0, "t"))
    clean, moved = found.images.chunk(2)
    assert clean.max() == 0
    assert moved.min() > 0.3
    of_clean, of_moved = found.wanted.chunk(2)
    torch.testing.assert_close(of_clean, torch.tensor([[0.075, 0.925]] * 6))
    assert {round(one, 3) for one in of_moved[:, 0].tolist()} <= {0.775, 0.075}


def teacher_at(epochs, robust=(0.0, 1.0)):
    """Give what the second epoch of so many is taught by."""
    base = nets.classifier(nets.public)
    settings = Settings(epochs=epochs)
    learner = Learner(Defended(eroded_end(base)), settings, 4, base.classes)
    images = Images(torch.zeros(4, 3, *base.size).byte(), torch.zeros(4).long(), tuple("abcd"))
    examples = [Examples(images.pixels, torch.arange(4))] * 2
    epoch = Epoch(1, 1.0, Figures(0.5, dict(zip("ab", robust, strict=True)), 0.5), True)
    state = State(learner.weights, learner.averaged, {}, epochs=[epoch])
    exam = Exam(images, {"a": images, "b": images})
    return teacher_of(learner, images, examples, exam, (), state)


def test_many_epochs_learn_from_attacks_on_the_model_itself():
    assert isinstance(teacher_at(ENOUGH), Transfer)
    few = teacher_at(ENOUGH - 1)
    assert isinstance(few, Known)
    assert few.odds[0] > few.odds[1]  # the source that fools the model most comes most


def test_tails_are_late_nested_and_heard_by_the_features():
    model = Classifier(tiny_nets.trained("residual"), name="r", size=tiny_nets.SIZE)
    found = places.tails(model, 0.2)
    assert len(found) > 1
    for longer, shorter in pairwise(found):
        assert longer[-len(shorter) :] == shorter
    # dropout right before the last layer changes every image alike
    traced = trace(model.core, model.size)
    last = find_sites(traced, ("activation",), {"activation": 0.1})[-1:]
    assert places._layers_behind(traced, last) == 1
    assert all(tail != last for tail in found)


def test_beside_a_detector_the_classifier_is_eroded_too():
    plain = Classifier(tiny_nets.trained("residual"), name="r", size=tiny_nets.SIZE)
    traced = trace((model := watched(plain, 0).model).core, model.size)
    sites = find_sites(traced, ("skip", "activation"), places.BASE)
    own = 3  # of the detector, before the classifier; one more is behind it
    without = find_sites(trace(plain.core, plain.size), ("skip", "activation"), places.BASE)
    assert len(sites) == own + len(without) + 1
    layers = [places._layers_behind(traced, sites[n:]) for n in range(own, len(sites))]
    alone = trace(plain.core, plain.size)
    bare = [places._layers_behind(alone, without[n:]) for n in range(len(without))]
    assert layers == [*bare, 0]
    for tail in places.tails(model, 0.2):
        assert tail[-1] == sites[-1]
        assert len(tail) > 1
    # where nothing earlier is shared so much, the classifier's last features are eroded
    (last,) = places.tails(model, 0.99)
    assert places._layers_behind(traced, last) == 1
    assert places._layers_behind(alone, places.tails(plain, 0.99)[0]) > 1


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
    assert ranked([], 0.5) == []
    # as near to the best, wherever the best lies: no bins
    for top in (0.9049, 0.9051, 0.91, 0.9149):
        near, far = point(0.9, top - 0.009, 0.9, 2), point(0.9, top - 0.011, 0.9, 1)
        assert ranked([far, point(0.9, top, 0.9, 8), near], 0.89)[0] is near
    weak, strong = point(1, 0, 0.5, 8, strength=0.1), point(1, 0, 0.5, 8, strength=2.0)
    assert ranked([weak, strong], 0.9)[0] is strong  # nothing attacked: members that differ
    assert good.cost == 1 + 7 * 0.5


def test_the_front_holds_what_nothing_beats():
    a, b, c = point(0.9, 0.9, 0.9, 2), point(0.9, 0.9, 0.9, 4), point(0.95, 0.9, 0.9, 4)
    assert pareto([c, b, a]) == [a, c]


def test_the_best_epoch_keeps_the_budget_if_any_does():
    one = Epoch(1, 0.0, Figures(0.9, {"a": 0.5}, 0.5), True)
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
    state = State([], [], {}, best_number=2)
    for number in range(1, 2 + PATIENCE):
        state.epochs.append(Epoch(number, 0.0, Figures(1, {}, 0.5), True))
        assert not stopped(state)
    state.epochs.append(state.epochs[-1])
    assert stopped(state)
