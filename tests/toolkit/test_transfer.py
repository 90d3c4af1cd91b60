"""Comparing attacks in memory: the same outcomes as a saved set, kept ones not made again."""

import numpy as np
import pytest
import torch

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit import ablate, memory, transfer
from deepfusion_toolkit.attacks import Settings, cost, settings_for
from deepfusion_toolkit.craft import craft
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.evaluate import predict
from deepfusion_toolkit.journal import load_attacked
from deepfusion_toolkit.label_order import require_fitting_labels
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.transfer import Trial
from tests.toolkit import attack_nets as nets

CHOSEN = Settings(eps=16, steps=3, erosion=0.5)


@pytest.fixture
def data(tmp_path):
    return folder.load(nets.random_folder(tmp_path / "data"))


@pytest.fixture
def trial(data):
    surrogates = [nets.classifier(nets.three), nets.classifier(nets.other_three)]
    return Trial(data, surrogates, [nets.classifier(nets.public)], batch=4)


def test_outcomes_are_those_of_a_saved_set(trial, data, tmp_path):
    kept = {}
    passes = trial.craft(CHOSEN, kept)
    craft(data, trial.surrogates, tmp_path / "set", CHOSEN, batch=4)
    said = predict(trial.targets[0], load_attacked(tmp_path / "set"))
    assert [kept[i.file] for i in data.items] == [[s] for s in said]
    assert passes == 6
    hits, counted = trial.outcomes(CHOSEN, kept)
    labels = np.array([i.label for i in data.items])
    assert hits.tolist() == [(np.array(said) != labels).tolist()]
    clean = predict(trial.targets[0], data)
    assert counted.tolist() == [(np.array(clean) == labels).tolist()]


def test_what_is_kept_is_not_attacked_again(trial, data, monkeypatch):
    kept = {data.items[0].file: [2]}
    trial.craft(CHOSEN, kept)
    assert kept[data.items[0].file] == [2]
    assert len(kept) == len(data)
    monkeypatch.setattr(transfer, "attack", None)  # would fail if called
    assert trial.craft(CHOSEN, kept) == 0


def test_success_counts_what_was_right_or_everything(trial, data):
    files = [i.file for i in data.items]
    labels = {i.file: i.label for i in data.items}
    trial.right = {f: [index < 4] for index, f in enumerate(files)}
    wrong = {f: [labels[f] + 1 if index in {0, 5} else labels[f]] for index, f in enumerate(files)}
    assert trial.success(CHOSEN, wrong).value == pytest.approx(1 / 4)
    assert trial.success(CHOSEN, wrong, of_all=True).value == pytest.approx(2 / len(files))


def test_a_targeted_success_is_the_wanted_class(trial):
    aimed = Settings(targeted=True)
    goals = {i.file: [i.target] for i in trial.items(aimed)}
    hits, _ = trial.outcomes(aimed, goals)
    assert hits.all()
    other = {f: [(t[0] + 1) % 3] for f, t in goals.items()}
    assert not trial.outcomes(aimed, other)[0].any()


@pytest.mark.parametrize("passes", [20, 80])
@pytest.mark.parametrize("side", [8, 224])
def test_every_variant_of_an_ablation_keeps_the_budget(passes, side):
    chosen = settings_for("deep-fusion", passes=passes, surrogates=2, side=side)
    made = list(ablate.variants(chosen, passes, 2))
    assert made[0] == ("as chosen", chosen)
    names = [name for name, _ in made]
    assert len(set(names)) == len(names)
    for name, settings in made[1:]:
        assert settings != chosen, name
        assert passes / 2 < cost(settings, 2) <= passes, name
    assert ("without bsr" in names) == ("bsr" in chosen.transforms)
    assert ("with bsr" in names) != ("without bsr" in names)


def test_an_ablation_measures_each_variant(trial, monkeypatch):
    parts = [("as chosen", CHOSEN), ("without erosion", Settings(steps=3, erosion=0))]
    monkeypatch.setattr(ablate, "variants", lambda *_: iter(parts))
    lines = ablate.ablate(trial, [6], eps=16)
    assert [(line.part, line.spent) for line in lines] == [(name, 6) for name, _ in parts]
    for (_, settings), line in zip(parts, lines, strict=True):
        kept = {}
        trial.craft(settings, kept)
        assert line.success == trial.success(settings, kept)
    assert lines[0].points == 0
    made = ablate.as_table(lines, trial, 16)
    assert all(len(row) == len(made["columns"]) for row in made["rows"])


class Labelled(torch.nn.Module):
    """Tells the class by the first channel; ``turned`` numbers the classes backwards."""

    input_size = nets.SIZE

    def __init__(self, turned):
        super().__init__()
        self.turned = turned

    def forward(self, image):
        level = image[:, 0].mean((1, 2))
        scores = -((level[:, None] - torch.tensor([0.1, 0.4, 0.7, 0.9])) ** 2)
        return scores.flip(1) if self.turned else scores


def test_a_surrogate_with_another_label_order_is_named(tmp_path):
    from PIL import Image

    for label, level in enumerate((0.1, 0.4, 0.7, 0.9)):
        (tmp_path / f"c{label}").mkdir()
        for index in range(4):
            pixels = np.full((*nets.SIZE, 3), round(255 * level), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"c{label}" / f"{index}.png")
    data = folder.load(tmp_path)
    straight = Classifier(Labelled(False), name="straight", size=nets.SIZE)
    turned = Classifier(Labelled(True), name="turned", size=nets.SIZE)
    require_fitting_labels([straight, straight], data)
    require_fitting_labels([turned], data)  # alone, nothing tells
    with pytest.raises(ModelError, match="surrogate turned classifies 0% of 16"):
        require_fitting_labels([straight, turned], data)
    few = Dataset(data.root, data.items[:8], data.classes, data.layout)
    require_fitting_labels([straight, turned], few)  # chance could explain it


def test_a_batch_is_a_power_of_two_that_half_of_the_memory_holds(monkeypatch):
    models = [nets.classifier(nets.three), nets.classifier(nets.other_three)]
    together, alone = Settings(feature_weight=0), Settings(feature_weight=0, group=1)
    each = [memory.kept_by(m, together) for m in models]
    assert min(each) >= nets.PIXELS * 4
    monkeypatch.setattr(memory, "free", lambda _: 2 * sum(each) * 5)
    assert memory.fitting(models, together, "cpu") == 4
    monkeypatch.setattr(memory, "free", lambda _: 2 * max(each) * 9)
    assert memory.fitting(models, alone, "cpu") == 8
    monkeypatch.setattr(memory, "free", lambda _: 1)
    assert memory.fitting(models, together, "cpu") == 1
    for unknown in (None, 2**60):
        monkeypatch.setattr(memory, "free", lambda _, said=unknown: said)
        assert memory.fitting(models, together, "cpu") == memory.MOST
