"""Hardening on three colours of squares: plan and weights belong together, and each rule bites."""

from functools import cache

import pytest
import torch

from deepfusion_edge.errors import InputError, ModelError, UsageError
from deepfusion_toolkit import attacks
from deepfusion_toolkit import harden as hardening
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.attacks import prepare
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.harden import Settings, choose, harden, transfer_examples
from deepfusion_toolkit.models import load
from deepfusion_toolkit.surgery import erode, find_sites
from deepfusion_toolkit.surgery.graph import trace
from deepfusion_toolkit.training import accuracy, pixels_of, split
from tests.toolkit import attack_nets as nets

QUICK = {"steps": 2, "members": 4, "crafted": 20, "false_positive_rate": 0.5}


@cache
def prepared(settings):
    return prepare([nets.classifier(nets.public)], settings)


@pytest.fixture
def trace_once(monkeypatch):
    """Surgery takes longer than the attack: do it once for the same settings."""
    monkeypatch.setattr(attacks, "prepare", lambda _models, settings: prepared(settings))


@pytest.fixture
def data(tmp_path):
    return folder.load(nets.squares(tmp_path / "data", each=16))


def test_a_hardened_model_and_its_plan_belong_together(data, tmp_path):
    model, public = nets.classifier(nets.learner), nets.classifier(nets.public)
    before, untouched = plans.fingerprint(model.core), plans.fingerprint(public.core)
    # any drop is allowed, so the first strength is taken and one surgery is enough
    chosen = Settings(**QUICK, epochs=10, rate=2e-2, max_clean_drop=1.0)
    plan = harden(model, data, [public], tmp_path / "net.pt2", tmp_path / "plan.json", chosen)
    saved = load(str(tmp_path / "net.pt2"))
    assert plans.read(tmp_path / "plan.json", saved) == plan
    assert (
        plan.bases[0].model
        == plans.fingerprint(saved.core)
        == plans.fingerprint(model.core)
        != before
    )
    assert plans.fingerprint(public.core) == untouched
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "net.pt2", "plan.json"]
    assert plan.classes == ("a_red", "b_green", "c_blue")
    assert (plan.height, plan.width, plan.members) == (16, 16, 4)
    assert plan.prefix_share >= chosen.shared
    assert plan.settings["epochs"] == 10
    assert plan.settings["surrogates"] == ["public"]
    parts = split(data)
    assert plan.figures["held_out"] == len(parts.held_out) == plan.thresholds.calibration_images
    pixels, labels = pixels_of(parts.held_out, saved.size)
    assert plan.figures["accuracy"] == accuracy(saved, pixels, labels) == 1.0
    assert plan.figures["clean_accuracy_before"] < 1.0
    assert plan.figures["fused_accuracy"] == 1.0
    assert plan.thresholds.disagreement.suspect is not None
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.usefixtures("trace_once")
def test_one_epoch_runs_and_the_same_seed_gives_the_same_weights(data, tmp_path):
    found = []
    for number, seed in enumerate((0, 0)):
        model = nets.classifier(nets.learner)
        place = tmp_path / str(number)
        chosen = Settings(**QUICK, epochs=1, max_clean_drop=1.0, seed=seed)
        public = nets.classifier(nets.public)
        found.append(harden(model, data, [public], place / "m.pt2", place / "p.json", chosen))
    assert found[0] == found[1]


def test_no_epochs_leave_the_weights_and_use_all_images(data, tmp_path):
    model = nets.classifier(nets.learner)
    before = plans.fingerprint(model.core)
    chosen = Settings(**{**QUICK, "false_positive_rate": 0}, epochs=0, max_clean_drop=1.0)
    plan = harden(model, data, [], tmp_path / "net.pt2", tmp_path / "plan.json", chosen)
    assert plan.thresholds is None
    assert plan.bases[0].model == before == plans.fingerprint(load(str(tmp_path / "net.pt2")).core)
    assert plan.figures["held_out"] == len(data) == 48
    assert plan.figures["accuracy"] == plan.figures["clean_accuracy_before"]


def test_the_strongest_erosion_that_keeps_accuracy_is_chosen(data, monkeypatch):
    model = nets.classifier(nets.learner)
    pixels, labels = pixels_of(data, model.size)
    asked = []

    def fused(eroded, *_):
        asked.append(eroded.sites[0].strength)
        return {1: 0.90, 2: 0.97, 3: 0.985}.get(len(asked), 1.0)

    monkeypatch.setattr(hardening, "_fused_accuracy", fused)
    sites = choose(model, pixels, labels, 1.0, Settings(max_clean_drop=0.02))
    assert asked == sorted(asked, reverse=True)
    assert len(asked) == 3
    assert sites[0].strength == asked[-1]


@pytest.mark.usefixtures("trace_once")
def test_transfer_examples_stay_within_epsilon(data):
    made = transfer_examples(
        [nets.classifier(nets.public)], data, Settings(eps=6, steps=3, crafted=9)
    )
    assert len(made) == 9
    items = [i for i in data.items if i.file in made]
    assert sorted({i.label for i in items}) == [0, 1, 2]
    clean = torch.round(folder.stack(data, items) * 255)
    apart = (torch.stack([made[i.file] for i in items]).float() - clean).abs().amax((1, 2, 3))
    assert apart.max() == 6
    assert apart.min() > 0


def test_too_few_images_for_the_rate_are_refused_before_the_work(data, tmp_path):
    model, public = nets.classifier(nets.learner), nets.classifier(nets.public)
    before = plans.fingerprint(model.core)
    place, chosen = (tmp_path / "net.pt2", tmp_path / "plan.json"), Settings()
    with pytest.raises(InputError, match=r"7 held-out clean images .* 199 are needed"):
        harden(model, data, [public], *place, chosen)
    assert plans.fingerprint(model.core) == before
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.usefixtures("trace_once")
def test_training_that_diverges_says_so(data, tmp_path):
    model = nets.classifier(nets.learner)
    with torch.no_grad():
        model.core.main.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="diverged at step 0"):
        harden(
            model,
            data,
            [nets.classifier(nets.public)],
            tmp_path / "net.pt2",
            tmp_path / "plan.json",
            Settings(**QUICK, epochs=1, max_clean_drop=1.0),
        )
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_weights_that_were_not_trained_in_place_are_refused():
    model, other = nets.classifier(nets.learner), nets.classifier(nets.learner)
    eroded = eroded_skips(other)
    hardening._require_shared_weights(model, eroded)
    with torch.no_grad():
        other.core.head.bias += 0.1
    with pytest.raises(ModelError, match="did not reach the model"):
        hardening._require_shared_weights(model, eroded)
    with torch.no_grad():
        other.core.head.bias += float("nan")
    with pytest.raises(ModelError, match="did not reach the model"):
        hardening._require_shared_weights(model, eroded)


def eroded_skips(model):
    return erode(model, find_sites(trace(model.core, model.size), ("skip",), {"skip": 0.2}))


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
        {"max_clean_drop": -0.1},
        {"max_clean_drop": 1.1},
        {"false_positive_rate": -0.1},
        {"false_positive_rate": 0.6},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"rate": 2.0},
        {"crafted": 0},
    ],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(UsageError) as caught:
        Settings(**change)
    assert f"--{next(iter(change)).replace('_', '-')}" in caught.value.remedy


def test_labels_that_do_not_fit_are_refused(data, tmp_path):
    model = nets.classifier(nets.four)
    with pytest.raises(ModelError, match="four has 4 outputs, the data set has 3 classes"):
        harden(model, data, [], tmp_path / "m.pt2", tmp_path / "p.json", Settings(epochs=0))
    (data.root / "labels.csv").write_text("file,label\na_red/0.png,4\nb_green/0.png,1\n")
    numbers = folder.load(data.root)
    with pytest.raises(ModelError, match="label 4, model four has 4 outputs"):
        harden(model, numbers, [], tmp_path / "m.pt2", tmp_path / "p.json", Settings(epochs=0))
