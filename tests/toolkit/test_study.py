"""The transfer study by hand: which cell holds what, and which targets a mean may use."""

import json
from functools import cache

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from deepfusion_edge.errors import InputError, ModelError, UsageError
from deepfusion_edge.fusion import Threshold, Thresholds
from deepfusion_toolkit import evaluate as judging
from deepfusion_toolkit import sets as attacked
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Base, Plan, fingerprint
from deepfusion_toolkit.sets import Origin
from deepfusion_toolkit.study import Study, study
from deepfusion_toolkit.surgery import find_sites
from deepfusion_toolkit.surgery.graph import trace
from tests.toolkit import attack_nets as nets

RED, GREEN, BLUE = range(3)
NAMES = ("a", "b", "c", "d")
LABELS = dict(zip(NAMES, (RED, GREEN, BLUE, RED), strict=True))


class Shifted(nn.Module):
    """The strongest colour, or its neighbour: weights differ, so fingerprints do."""

    input_size = nets.SIZE

    def __init__(self, shift):
        super().__init__()
        self.net = nets.Colour()
        with torch.no_grad():
            self.net.head.weight.copy_(8 * torch.eye(3).roll(shift, 0))

    def forward(self, image):
        return self.net(image)


@cache
def model(name, shift=0):
    return Classifier(Shifted(shift), name=name, size=nets.SIZE)


def painted(root, shown):
    """A set whose images a to d show these colours, under the labels above."""
    for name, colour in zip(NAMES, shown, strict=False):
        pixels = np.full((*nets.SIZE, 3), 60)
        pixels[..., colour] = 200
        nets.picture(root / f"{name}.png", pixels)
    lines = [f"{name}.png,{LABELS[name]}" for name in NAMES[: len(shown)]]
    (root / "labels.csv").write_text("\n".join(["file,label", *lines, ""]))
    return root


def manifest(root, **head):
    (root / "manifest.json").write_text(json.dumps({"schema": 1, "head": head}))
    return root


@pytest.fixture
def clean(tmp_path):
    return folder.load(painted(tmp_path / "clean", (RED, GREEN, BLUE, GREEN)))  # d is wrong


@pytest.fixture
def two(tmp_path):
    half = painted(tmp_path / "half", (GREEN, GREEN, BLUE, GREEN))
    most = painted(tmp_path / "most", (GREEN, RED, BLUE, RED))
    return attacked.load([half, most])


def counts(share):
    return (share.hits, share.total)


def test_the_matrix_by_hand(two, clean):
    found = study(two, clean, [model("same"), model("next", 1)])
    assert [row.name for row in found.sets] == ["half", "most"]
    assert [[r.name for r in row.targets] for row in found.sets] == [["same", "next"]] * 2
    # "same" has a, b and c right when clean; "next" says GREEN BLUE RED BLUE and has none right
    assert [counts(row.targets[0].success) for row in found.sets] == [(1, 3), (2, 3)]
    assert [counts(row.targets[0].success_all) for row in found.sets] == [(2, 4), (2, 4)]
    assert [counts(row.targets[1].success) for row in found.sets] == [(0, 0), (0, 0)]
    # "next" says BLUE BLUE RED BLUE and BLUE GREEN RED GREEN: b of "most" is right
    assert [counts(row.targets[1].success_all) for row in found.sets] == [(4, 4), (3, 4)]
    half, most = found.sets
    assert (half.black_box_mean.targets, half.black_box_mean.value) == (1, 1 / 3)
    assert (half.black_box_mean_all.targets, half.black_box_mean_all.value) == (2, 0.75)
    assert most.black_box_mean_all.value == (2 / 4 + 3 / 4) / 2
    assert half.black_box_mean.low <= 1 / 3 <= half.black_box_mean.high
    assert (half.attack, half.eps, half.passes_per_image, half.head) == (None,) * 4
    assert (half.ssim, half.linf) == (None, 140 / 4)  # one of four changed; 8 pixels a side


def test_the_mean_leaves_surrogates_out(two, clean):
    seen, unseen = model("seen"), model("unseen", 1)
    hashes = [fingerprint(seen.core)]
    manifest(two[0].dataset.root, attack="x", surrogates=["other name"], fingerprints=hashes)
    (row,) = study(attacked.load([two[0].dataset.root]), clean, [seen, unseen]).sets
    assert [r.white_box for r in row.targets] == [True, False]
    assert (row.black_box_mean_all.targets, row.black_box_mean_all.value) == (1, 1.0)
    assert row.black_box_mean is None  # "unseen" is never right when clean
    (row,) = study(attacked.load([two[0].dataset.root]), clean, [seen]).sets
    assert row.black_box_mean_all is None


def test_without_the_guard_the_mean_would_count_them(two, clean, monkeypatch):
    seen, unseen = model("seen"), model("unseen", 1)
    manifest(two[0].dataset.root, surrogates=["s"], fingerprints=[fingerprint(seen.core)])
    monkeypatch.setattr(Origin, "used", lambda *_: False)
    (row,) = study(attacked.load([two[0].dataset.root]), clean, [seen, unseen]).sets
    assert (row.black_box_mean_all.targets, row.black_box_mean_all.value) == (2, 0.75)


def test_a_name_counts_only_where_no_weights_are_listed():
    assert Origin(surrogates=["a"]).used("a", "1")
    assert not Origin(surrogates=["a"], fingerprints=["2"]).used("a", "1")
    assert Origin(surrogates=["b"], fingerprints=["1"]).used("a", "1")
    assert not Origin().used("a", "1")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"head": 3}', '{"head": {"eps": "much"}}'])
def test_a_manifest_of_another_tool_is_no_manifest(text, two, clean):
    (two[0].dataset.root / "manifest.json").write_text(text)
    (one,) = attacked.load([two[0].dataset.root])
    assert one.head is None
    assert study([one], clean, [model("same")]).sets[0].black_box_mean.targets == 1


def test_a_manifest_s_words_stand_beside_the_figures(two):
    head = {"attack": "x", "eps": 4, "passes_per_image": 20, "surrogates": ["s"], "later": [1]}
    manifest(two[0].dataset.root, **head)
    (row,) = study(attacked.load([two[0].dataset.root]), None, [model("same")]).sets
    assert (row.attack, row.eps, row.passes_per_image, row.surrogates) == ("x", 4, 20, ["s"])
    assert row.head == head
    assert (row.ssim, row.linf, row.l2, row.black_box_mean) == (None,) * 4
    assert counts(row.targets[0].success_all) == (2, 4)
    assert row.black_box_mean_all.value == 0.5


def test_each_clean_image_is_judged_once_for_each_target(tmp_path, two, clean, monkeypatch):
    part = painted(tmp_path / "part", (BLUE, BLUE))  # a and b only
    seen = []
    predict = judging.predict

    def counting(net, dataset):
        seen.extend((net.name, dataset.root.name, i.file) for i in dataset.items)
        return predict(net, dataset)

    monkeypatch.setattr(judging, "predict", counting)
    found = study([*attacked.load([part]), *two], clean, [model("same"), model("next", 1)])
    judged = [look for look in seen if look[1] == "clean"]
    assert len(judged) == len(set(judged)) == 2 * 4
    assert found.sets[0].targets[0].clean_predictions == [RED, GREEN]
    assert found.sets[2].targets[0].clean_predictions == [RED, GREEN, BLUE, GREEN]


def test_one_set_alone_gives_the_same_as_among_others(two, clean):
    targets = [model("same"), model("next", 1)]
    together = study(two, clean, targets).sets
    assert [study([one], clean, targets).sets[0] for one in two] == together
    assert judging.evaluate(two[1].dataset, clean, targets) == together[1].targets


def test_a_fused_target_is_no_target_of_its_own(two, clean):
    net = model("same")
    sites = find_sites(trace(net.core, net.size), ("activation",), {"activation": 0.05})
    nothing = Threshold(None, None)
    plan = Plan(
        schema=2,
        classes=("r", "g", "b"),
        height=nets.SIDE,
        width=nets.SIDE,
        bases=(Base.of(net, sites),),
        preprocess=(),
        members=4,
        fusion="mean-probabilities",
        prefix_share=0.5,
        thresholds=Thresholds(nothing, nothing, 0.01, 100),
        settings={},
        figures={},
    )
    for row in study(two, clean, [net], plan=plan).sets:
        assert [r.name for r in row.targets] == ["same", "same, fused over 4"]
        assert row.black_box_mean.targets == 1
        assert row.black_box_mean.value == row.targets[0].success.value


def test_equal_names_are_told_apart(tmp_path, clean):
    roots = [painted(tmp_path / side / "set", (RED, RED, RED, RED)) for side in ("x", "y")]
    found = study(attacked.load(roots), clean, [model("same"), model("same", 1)])
    assert [row.name for row in found.sets] == [str(root) for root in roots]
    assert [r.name for r in found.sets[0].targets] == ["same", "same (2)"]
    with pytest.raises(UsageError, match="given twice"):
        attacked.load([roots[0], roots[0]])


def test_what_does_not_fit_names_the_set(tmp_path, two, clean):
    with pytest.raises(ModelError, match=r"half: model four has 4 outputs, same has 3"):
        study(two, clean, [model("same"), nets.classifier(nets.four)])
    one, most = two
    nets.picture(most.dataset.root / "b.png", np.zeros((9, 8, 3)))
    with pytest.raises(InputError, match=r"most/b\.png is 8x9 pixels, its original 8x8"):
        study(two, clean, [model("same")])
    other = folder.load(painted(tmp_path / "other", (RED, RED)))
    with pytest.raises(InputError, match=r"half: the original of c\.png is missing in .*other"):
        study([one], other, [model("same")])


def test_doubtful_label_orders_are_said(two, clean):
    assert study(two, clean, [model("same")]).warnings == []
    said = study(two[:1], clean, [model("same"), model("next", 1)]).warnings
    assert len(said) == 1
    assert said[0].startswith("next has only 0 of 4 clean images of half right")
    assert study(two, None, [model("next", 1)]).warnings == []


def test_the_json_form_can_be_read_back(two, clean):
    found = study(two, clean, [model("same")])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Study) == found
