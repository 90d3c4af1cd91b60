"""Hardening on three colours of squares: plan and weights belong together, and each rule bites."""

import json
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import msgspec
import pytest
import torch

from deepfusion_edge.errors import InputError, ModelError, UsageError
from deepfusion_toolkit import attacks
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.augment import SHIFTS, TURNS
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.harden import Settings, budget, harden, noticing, places, run, training
from deepfusion_toolkit.harden import learner as learner_room
from deepfusion_toolkit.harden.detector import Beside, watched
from deepfusion_toolkit.harden.images import images_of
from deepfusion_toolkit.harden.lessons import Distillation
from deepfusion_toolkit.harden.search import Grid
from deepfusion_toolkit.models import Classifier, load, save
from deepfusion_toolkit.policy import Found
from deepfusion_toolkit.report.hardening import page_of
from deepfusion_toolkit.surgery import ErodedModel, erode, find_sites, work_of
from deepfusion_toolkit.surgery.graph import trace
from deepfusion_toolkit.training import accuracy, pixels_of, split
from tests.toolkit import attack_nets as nets

QUICK = Settings(
    shared=0.5,  # no site of this net comes later
    steps=1, members=4, crafted=24, false_positive_rate=0.5, max_clean_drop=1.0, max_cost=64,
    epochs=2,
)  # fmt: skip


ONE = replace(QUICK, epochs=1)
_prepare = attacks.prepare


class Surgery(NamedTuple):
    """What torch.export takes its time for.

    Attributes:
        model: the learner.
        grid: its plans.
        beside: the same with a detector.
        grid_beside: its plans.
        public: a surrogate.
        prepared: it, for every attack.
        first: weights of the model with its detector, before training.
    """

    model: Classifier
    grid: Grid
    beside: Beside
    grid_beside: Grid
    public: Classifier
    prepared: list[ErodedModel]
    first: list[torch.Tensor]


@cache
def surgery():
    """Everything once."""
    model = nets.classifier(nets.learner)
    beside = watched(model, 0)
    public = nets.classifier(nets.public)
    return Surgery(
        model,
        Grid.of(model, places.tails(model, 0.5)[:1], replace(QUICK, members=None)),
        beside,
        Grid.of(
            beside.model,
            places.tails(beside.model, 0.5)[:1],
            replace(QUICK, members=None),
            beside.network,
        ),
        public,
        _prepare([public], replace(attacks.Settings(), erosion=0.0, feature_weight=0.0)),
        [w.clone() for w in weights(beside.model)],
    )


def weights(model):
    return [*model.core.parameters(), *model.core.buffers()]


def as_it_was():
    """Give the model and its detector their first weights."""
    budget.restore(weights(surgery().beside.model), surgery().first)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One place, one strength, two plain sources; models are saved as their fingerprint."""
    as_it_was()
    at = "deepfusion_toolkit.harden."
    monkeypatch.setattr(at + "search.LADDER", (1.0,))
    monkeypatch.setattr(at + "search.WEAK", ())
    monkeypatch.setattr(at + "pool.TOGETHER", (("mi", 1),))
    monkeypatch.setattr(at + "pool.ALONE", (("fgsm", 1),))
    monkeypatch.setattr(attacks, "prepare", lambda _models, _settings: surgery().prepared)
    monkeypatch.setattr(run, "tails", lambda *_: ())
    monkeypatch.setattr(run, "save", fake_save)
    monkeypatch.setattr(run, "watched", lambda *_: surgery().beside)
    monkeypatch.setattr(noticing, "ROUNDS", 2)
    monkeypatch.setattr(noticing, "STEPS", 8)
    monkeypatch.setattr(Grid, "of", grid_of)


def grid_of(model, _tails, settings, network=1.0):
    own = surgery()
    grid = own.grid_beside if model is own.beside.model else own.grid
    assert {work.network for _, work in grid.places} == {network}
    return replace(grid, members=(settings.members,), max_cost=settings.max_cost)


def fake_save(core, _size, path):
    write_bytes(path, plans.fingerprint(core).encode())


UNTOUCHED = plans.fingerprint(nets.learner())


@pytest.fixture
def data(tmp_path):
    return folder.load(nets.squares(tmp_path / "data", each=16))


def hardened(data, place, settings=QUICK, others=None, **more):
    as_it_was()
    model = surgery().model
    others = [surgery().public] if others is None else others
    return model, harden(model, data, others, place / "m.pt2", place / "p.json", settings, **more)


def test_a_hardened_model_and_its_plan_belong_together(data, tmp_path, monkeypatch):
    settings = replace(QUICK, epochs=24, rate=2e-2)
    monkeypatch.setattr(run, "save", save)
    monkeypatch.setattr(noticing, "STEPS", 100)
    model, result = hardened(data, tmp_path / "h", settings)
    saved, plan = load(str(tmp_path / "h" / "m.pt2")), result.plan
    assert plans.read(tmp_path / "h" / "p.json", saved) == plan
    own = plan.bases[0].model
    assert own == plans.fingerprint(saved.core)
    assert plans.fingerprint(model.core) != UNTOUCHED
    assert sorted(p.name for p in (tmp_path / "h").iterdir()) == ["m.pt2", "m.work", "p.json"]
    assert plan.classes == ("a_red", "b_green", "c_blue")
    assert (plan.height, plan.width, plan.members) == (16, 16, 4)
    assert plan.prefix_share >= settings.shared
    assert plan.settings["surrogates"] == ["public"]
    parts = split(data)
    assert plan.figures["held_out"] == len(parts.held_out) == plan.thresholds.calibration_images
    pixels, labels = pixels_of(parts.held_out, saved.size)
    assert plan.figures["accuracy"] == accuracy(saved, pixels, labels)
    # a few images, a net nobody trained before: it has learnt, and of both kinds
    assert plan.figures["accuracy"] > plan.figures["clean_accuracy_before"] + 0.4
    assert plan.figures["fused_accuracy"] > plan.figures["clean_accuracy_before"] + 0.4
    assert plan.figures["robust_accuracy"] > 0.8
    work = work_of(trace(saved.core, saved.size), plan.sites)
    assert work.shared == pytest.approx(plan.prefix_share)
    assert plan.network_cost == surgery().beside.network > 1
    assert plan.figures["cost"] == pytest.approx(plan.network_cost * work.cost(4), rel=1e-3)
    assert plan.figures["cost"] > 1 + 3 * (1 - plan.prefix_share)  # erosion itself is not free
    assert not any(p.requires_grad for p in model.parameters())
    assert plan.figures["auroc"] > 0.7  # by the detector
    said = result.as_json()
    assert said["chosen"] in said["pareto"]
    page = page_of(result, "learner", data)
    for words in ("mi on public", "fgsm on public", "AUROC", "Plans that no other one beats"):
        assert words in page


class TaughtError(Exception):
    """Training would begin now."""


def test_what_the_budget_bears_is_trained_with(data, tmp_path, monkeypatch):
    def spied(_learner, _images, _examples, _exam, found, *_):
        assert found == (*TURNS, *SHIFTS)  # a budget of everything bears them all
        raise TaughtError

    monkeypatch.setattr(run, "train", spied)
    with pytest.raises(TaughtError):
        hardened(data, tmp_path / "h", ONE)


def test_what_the_policy_costs_is_told(data, tmp_path, monkeypatch):
    asked = []

    def possible(*_, least, **__):
        asked.append(least)
        return Found(None, 0.5, ["dear"])

    monkeypatch.setattr(run, "possible", possible)
    _, result = hardened(data, tmp_path / "h", replace(QUICK, epochs=1, max_clean_drop=0.5))
    figures = result.plan.figures
    assert asked == [pytest.approx(figures["clean_accuracy_before"] - 0.5)]
    assert figures["policy_accuracy"] == 0.5
    assert "dear" in result.doubts
    assert "by the adaptive policy 50.0%" in page_of(result, "learner", data)


def test_a_resumed_run_is_a_straight_one(data, tmp_path, monkeypatch):
    settings = replace(QUICK, epochs=3)
    hardened(data, tmp_path / "straight", settings)
    epoch, seen = training.examine, []

    def stop(*args):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(args)
        return epoch(*args)

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(training, "examine", stop)
        with pytest.raises(KeyboardInterrupt):
            hardened(data, cut, settings)
    assert sorted(p.name for p in cut.iterdir()) == ["m.work"]
    assert sorted(p.name for p in (cut / "m.work").iterdir()) == ["checkpoint.pt", "pool"]
    pool = {p: p.stat().st_mtime_ns for p in (cut / "m.work" / "pool").iterdir()}
    _, resumed = hardened(data, cut, settings, resume=True)
    assert [e.number for e in resumed.epochs] == [1, 2, 3]
    assert (cut / "p.json").read_bytes() == (tmp_path / "straight" / "p.json").read_bytes()
    assert pool == {p: p.stat().st_mtime_ns for p in (cut / "m.work" / "pool").iterdir()}

    _, cheaper = hardened(data, cut, replace(settings, members=2), resume=True)
    # what counts after training may change
    assert cheaper.plan.bases[0].model == resumed.plan.bases[0].model
    with pytest.raises(UsageError, match=r"begun with eps 16\.0, this one has 8\.0"):
        hardened(data, cut, replace(settings, eps=8.0), resume=True)
    (cut / "m.work" / "checkpoint.pt").write_bytes(b"PK none")
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged"):
        hardened(data, cut, settings, resume=True)


def test_a_broken_file_of_the_pool_is_crafted_again(data, tmp_path):
    _, first = hardened(data, tmp_path, QUICK)
    for file in (tmp_path / "m.work" / "pool").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    assert hardened(data, tmp_path, QUICK)[1].plan == first.plan


def test_no_epochs_leave_the_weights_and_use_all_images(data, tmp_path):
    settings = replace(QUICK, epochs=0, false_positive_rate=0)
    _, result = hardened(data, tmp_path, settings, others=[])
    assert result.plan.thresholds is None
    assert result.plan.bases[0].model == UNTOUCHED
    assert result.plan.figures["held_out"] == len(data) == 48
    assert result.plan.figures["accuracy"] == result.plan.figures["clean_accuracy_before"]
    assert not (tmp_path / "m.work").exists()
    assert result.epochs == ()
    assert "Hardening" in page_of(result, "learner", data)


def test_too_few_images_for_the_rate_are_refused_before_the_work(data, tmp_path):
    with pytest.raises(InputError, match=r"7 held-out clean images .* 199 are needed"):
        hardened(data, tmp_path / "h", replace(QUICK, false_positive_rate=0.01))
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize("method", ["adversarial", "distillation"])
def test_other_methods_train_and_are_judged_on_the_models_own_examples(method, data, tmp_path):
    settings = replace(QUICK, method=method, rate=1e-2)
    model, result = hardened(data, tmp_path, settings, others=[])
    assert plans.fingerprint(model.core) != UNTOUCHED
    names = ["mi on learner", "fgsm on learner"]
    assert list(result.epochs[0].figures.robust) == names
    assert [*result.rounds[0].odds] == names if method == "adversarial" else not result.rounds


def test_a_surrogate_that_is_the_model_is_said_to_be_grey_box(data, tmp_path):
    _, result = hardened(data, tmp_path, ONE, others=[nets.classifier(nets.learner)])
    assert "grey-box" in result.doubts[0]


def test_a_broken_budget_is_mended_by_mixing_weights_or_nothing_is_written(
    data, tmp_path, monkeypatch
):
    """The trained weights are made to fail; the model's own keep the budget."""
    real = budget.verdicts
    core = surgery().model.core
    keeps = {UNTOUCHED}

    def verdicts(model, dataset, **more):
        good = plans.fingerprint(core) in keeps
        return [
            msgspec.structs.replace(verdict, label=item.label if good else -1)
            for verdict, item in zip(real(model, dataset, **more), dataset.items, strict=True)
        ]

    monkeypatch.setattr(budget, "verdicts", verdicts)
    monkeypatch.setattr(budget.Budget, "least_exam", -1.0)
    strict = replace(QUICK, max_clean_drop=0.02)
    model, result = hardened(data, tmp_path / "mixed", replace(strict, rate=1e-2))
    assert result.plan.figures["mix"] == 0.0
    assert plans.fingerprint(model.core) == UNTOUCHED
    # the detector costs no accuracy: it is not mixed
    head = surgery().beside.model.core.detector.head[0].weight
    assert not any(torch.equal(head, first) for first in surgery().first)
    assert any("0% of the hardened weights" in doubt for doubt in result.doubts)

    keeps.clear()
    with pytest.raises(ModelError, match="no plan keeps clean accuracy within"):
        hardened(data, tmp_path / "none", strict)
    assert [p.name for p in (tmp_path / "none").iterdir()] == ["m.work"]


def test_batch_norms_forget_what_they_had_before_they_settle(data):
    model = surgery().model
    images = images_of(data, model.size)
    pupil = learner_room.Learner(
        surgery().grid.places[0][0], QUICK, len(images.keys), model.classes
    )
    teacher = Distillation(images, None, (), model.classes)
    parameters = [p.clone() for p in pupil.trained]
    (mean,) = (b for n, b in model.core.named_buffers() if n.endswith("running_mean"))
    found = []
    for start in (0.0, 100.0):
        mean.fill_(start)
        pupil.settle(teacher)
        found.append(mean.clone())
    torch.testing.assert_close(found[0], found[1], atol=0.3, rtol=0)  # 100 * 0.9**60 is 0.18
    assert all(map(torch.equal, parameters, pupil.trained))


def test_the_model_appears_only_with_its_plan(data, tmp_path):
    settings = replace(QUICK, epochs=0)
    (tmp_path / "p.json").mkdir()
    with pytest.raises(UsageError, match=r"p\.json is a folder"):
        hardened(data, tmp_path, settings, others=[])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "p.json"]


def test_training_that_diverges_says_so(data, tmp_path, monkeypatch):
    def broken(_learner, copy, _part):
        return copy.trained[0].sum() * float("nan")

    monkeypatch.setattr(learner_room.Learner, "_loss", broken)
    with pytest.raises(ModelError, match="diverged at step 0"):
        hardened(data, tmp_path / "h")
    assert [p.name for p in (tmp_path / "h").iterdir()] == ["m.work"]


def test_weights_that_were_not_trained_in_place_are_refused():
    model, other = nets.classifier(nets.learner), nets.classifier(nets.learner)
    eroded = erode(other, find_sites(trace(other.core, other.size), ("skip",), {"skip": 0.2}))
    run._require_shared_weights(model, eroded)
    for value in (0.1, float("nan")):
        with torch.no_grad():
            other.core.head.bias += value
        with pytest.raises(ModelError, match="did not reach the model"):
            run._require_shared_weights(model, eroded)


@pytest.mark.parametrize(
    "change",
    [
        {"eps": 0.5},
        {"eps": 256},
        {"steps": 0},
        {"epochs": -1},
        {"epochs": 1001},
        {"members": 0},
        {"members": 65},
        {"shared": -0.1},
        {"shared": 1.0},
        {"max_cost": 0.5},
        {"max_clean_drop": -0.1},
        {"max_clean_drop": 1.1},
        {"false_positive_rate": -0.1},
        {"false_positive_rate": 0.6},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"rate": 2.0},
        {"crafted": 0},
        {"temperature": 0.5},
    ],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(UsageError) as caught:
        Settings(**change)
    assert f"--{next(iter(change)).replace('_', '-')}" in caught.value.remedy


def test_labels_that_do_not_fit_are_refused(data, tmp_path):
    model = nets.classifier(nets.four)
    out, settings = (tmp_path / "m.pt2", tmp_path / "p.json"), Settings(epochs=0)
    with pytest.raises(ModelError, match="four has 4 outputs, the data set has 3 classes"):
        harden(model, data, [], *out, settings)
    (data.root / "labels.csv").write_text("file,label\na_red/0.png,4\nb_green/0.png,1\n")
    numbers = folder.load(data.root)
    with pytest.raises(ModelError, match="label 4, model four has 4 outputs"):
        harden(model, numbers, [], *out, settings)


def test_one_class_and_a_cost_that_cannot_be_kept_are_refused(data, tmp_path, monkeypatch):
    (data.root / "labels.csv").write_text("file,label\na_red/0.png,1\na_red/1.png,1\n")
    with pytest.raises(InputError, match="images of 1 class"):
        hardened(folder.load(data.root), tmp_path / "h")
    (data.root / "labels.csv").unlink()
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"cheapest plan costs .* max-cost is 1"):
        hardened(data, tmp_path / "h", replace(QUICK, max_cost=1.0))
    assert not (tmp_path / "h").exists()


def test_the_result_is_json(data, tmp_path):
    _, result = hardened(data, tmp_path, ONE)
    said = json.loads(msgspec.json.encode(result.as_json()))
    assert set(said["pareto"][0]) == {
        "shared", "strength", "members", "cost", "clean", "robust", "auroc",
    }  # fmt: skip
    assert said["epochs"][0]["number"] == 1
