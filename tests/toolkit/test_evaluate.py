"""Success is counted over images that were right when clean; predictions are made by hand."""

from functools import cache

import numpy as np
import pytest

from deepfusion_edge.errors import InputError, ModelError
from deepfusion_edge.fusion import Threshold, Thresholds
from deepfusion_toolkit.data import Item, folder
from deepfusion_toolkit.evaluate import evaluate, originals, predict
from deepfusion_toolkit.plan import Base, Plan
from deepfusion_toolkit.surgery import find_sites
from deepfusion_toolkit.surgery.graph import trace
from tests.toolkit import attack_nets as nets

RED, GREEN, BLUE = range(3)


@cache
def colour():
    """Says which of red, green and blue is strongest."""
    return nets.classifier(nets.Colour)


def paint(path, strongest):
    pixels = np.full((*nets.SIZE, 3), 60)
    pixels[..., strongest] = 200
    nets.picture(path, pixels)


def painted(root, rows, suffix=".png"):
    """``rows``: (name, colour it shows, label, target or None)."""
    for name, shown, _, _ in rows:
        paint(root / f"{name}{suffix}", shown)
    lines = [f"{n}{suffix},{label},{'' if t is None else t}" for n, _, label, t in rows]
    (root / "labels.csv").write_text("\n".join(["file,label,target", *lines, ""]))
    return folder.load(root)


@pytest.fixture
def clean(tmp_path):
    shown = [("a", RED), ("b", GREEN), ("c", BLUE), ("d", RED), ("e", GREEN)]
    labels = [RED, GREEN, BLUE, GREEN, BLUE]  # d and e are wrong when clean
    rows = [(n, s, y, None) for (n, s), y in zip(shown, labels, strict=True)]
    return painted(tmp_path / "clean", rows)


ATTACKED = [
    ("e", RED, BLUE, None),  # was wrong, is wrong: no success of the attack
    ("d", GREEN, GREEN, None),  # was wrong, is right
    ("c", BLUE, BLUE, None),  # right both times
    ("b", RED, GREEN, None),  # fooled
    ("a", GREEN, RED, None),  # fooled
]


def test_success_counts_only_what_was_right_when_clean(clean, tmp_path):
    (result,) = evaluate(painted(tmp_path / "set", ATTACKED), clean, [colour()])
    assert result.predictions == [RED, GREEN, BLUE, RED, GREEN]
    assert result.clean_predictions == [GREEN, RED, BLUE, GREEN, RED]
    assert (result.success.hits, result.success.total) == (2, 3)
    assert (result.success_all.hits, result.success_all.total) == (3, 5)
    assert (result.clean_accuracy.hits, result.clean_accuracy.total) == (3, 5)
    assert (result.accuracy.hits, result.accuracy.total) == (2, 5)
    assert result.images == 5
    assert result.flagged is None
    assert result.success.low <= 2 / 3 <= result.success.high


def test_a_targeted_attack_must_reach_its_target(clean, tmp_path):
    rows = [
        ("a", GREEN, RED, GREEN),  # reached
        ("b", RED, GREEN, BLUE),  # wrong, but not the target
        ("e", RED, BLUE, RED),  # reached, but was wrong when clean
    ]
    (result,) = evaluate(painted(tmp_path / "set", rows), clean, [colour()])
    assert (result.success.hits, result.success.total) == (1, 2)
    assert (result.success_all.hits, result.success_all.total) == (2, 3)


def test_without_originals_nothing_is_claimed_of_them(clean):
    (result,) = evaluate(clean, None, [colour()])
    assert result.success is None
    assert result.clean_accuracy is None
    assert result.clean_predictions is None
    assert result.success_all.hits == 2


def test_a_target_that_is_never_right_has_no_rate(tmp_path):
    wrong = painted(tmp_path / "wrong", [("a", RED, BLUE, None)])
    (result,) = evaluate(wrong, wrong, [colour()])
    assert (result.success.hits, result.success.total) == (0, 0)
    assert (result.success.low, result.success.high) == (0.0, 1.0)


def test_originals_are_matched_by_name_without_suffix(clean, tmp_path):
    attacked = painted(tmp_path / "set", ATTACKED, suffix=".jpg")
    found = originals(attacked, clean)
    assert [i.file for i in found.items] == ["e.png", "d.png", "c.png", "b.png", "a.png"]
    assert found.root == clean.root


def test_a_missing_or_different_original_is_refused(clean, tmp_path):
    extra = painted(tmp_path / "set", [*ATTACKED, ("f", RED, RED, None)])
    with pytest.raises(InputError, match=r"original of f\.png is missing in .*clean"):
        evaluate(extra, clean, [colour()])
    other = painted(tmp_path / "other", [("a", RED, BLUE, None)])
    with pytest.raises(InputError, match=r"original of a\.png has another label"):
        evaluate(other, clean, [colour()])


def test_each_target_is_judged_by_itself(clean):
    both = evaluate(clean, None, [colour(), nets.classifier(nets.three)])
    assert [r.name for r in both] == ["Colour", "three"]
    assert both[0].predictions == predict(colour(), clean)
    with pytest.raises(ModelError, match="four has 4 outputs, Colour has 3 classes"):
        evaluate(clean, None, [colour(), nets.classifier(nets.four)])


def test_labels_beyond_the_outputs_are_refused(tmp_path):
    beyond = painted(tmp_path / "set", [("a", RED, 3, None)])
    with pytest.raises(ModelError, match="label 3, model Colour has 3 outputs"):
        evaluate(beyond, None, [colour()])


def test_more_images_than_a_batch_keep_their_order(tmp_path):
    rows = [(f"{n:03}", n % 3, n % 3, None) for n in range(70)]
    dataset = painted(tmp_path / "many", rows)
    assert predict(colour(), dataset) == [n % 3 for n in range(70)]
    turned = folder.Dataset(dataset.root, (Item("002.png", 0), Item("001.png", 0)), None, "folders")
    assert predict(colour(), turned) == [2, 1]


@pytest.mark.parametrize(("limit", "flagged"), [(0.0, 5), (1e9, 0)])
def test_with_a_plan_the_target_is_judged_fused_too(limit, flagged, clean, tmp_path):
    model = colour()
    sites = find_sites(trace(model.core, model.size), ("activation",), {"activation": 0.05})
    one = Threshold(limit, None)
    plan = Plan(
        schema=2,
        classes=("r", "g", "b"),
        height=nets.SIDE,
        width=nets.SIDE,
        bases=(Base.of(model, sites),),
        preprocess=(),
        members=16,
        fusion="mean-probabilities",
        prefix_share=0.5,
        thresholds=Thresholds(one, Threshold(None, None), 0.01, 100),
        settings={},
        figures={},
    )
    plain, fused = evaluate(painted(tmp_path / "set", ATTACKED), clean, [model], plan=plan)
    assert fused.name == "Colour, fused over 16"
    assert plain.flagged is None
    assert (fused.flagged.hits, fused.flagged_clean.hits) == (flagged, flagged)
    assert fused.predictions == plain.predictions  # five per cent of a channel changes no mean
    assert fused.clean_predictions == plain.clean_predictions
    (_, alone) = evaluate(clean, None, [model], plan=plan)
    assert alone.flagged_clean is None
