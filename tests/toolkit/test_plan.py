"""The erosion plan: written whole, read strictly, held against the weights it was made for."""

import json

import msgspec
import pytest
import torch
from torch import nn

from deepfusion_edge.erosion import Site
from deepfusion_edge.errors import InputError, ModelError
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.models import Classifier, load, save

SITES = (Site("activation:relu", "activation", 4, 0.1),)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


@pytest.fixture
def model():
    return Classifier(Tiny(), name="tiny", size=(8, 8))


@pytest.fixture
def plan(model):
    return plans.Plan(
        schema=2,
        classes=("ok", "hole"),
        height=8,
        width=8,
        bases=(plans.Base.of(model, SITES),),
        preprocess=(),
        members=8,
        fusion="mean-probabilities",
        prefix_share=0.75,
        thresholds=None,
        settings={"epochs": 3, "surrogate": ["a", "b"], "note": None},
        figures={"clean": 0.9},
    )


def test_what_is_written_is_read(plan, model, tmp_path):
    path = tmp_path / "deep" / "plan.json"
    plans.write(plan, path)
    assert plans.read(path, model) == plan
    assert [p.name for p in path.parent.iterdir()] == ["plan.json"]
    assert path.read_text().startswith('{\n "schema": 2,')


@pytest.mark.parametrize("name", ["conv.weight", "norm.running_mean", "head.bias"])
def test_a_plan_of_other_weights_is_refused(name, plan, model, tmp_path):
    plans.write(plan, tmp_path / "plan.json")
    tensor = dict(model.core.state_dict())[name]
    tensor.view(-1)[0] += 1e-6
    with pytest.raises(ModelError, match="made for other weights than tiny"):
        plans.read(tmp_path / "plan.json", model)


def test_the_fingerprint_is_the_files(model, tmp_path):
    save(model.core, model.size, tmp_path / "net.pt2")
    first = plans.fingerprint(load(str(tmp_path / "net.pt2")).core)
    assert first == plans.fingerprint(load(str(tmp_path / "net.pt2")).core)
    assert first == plans.fingerprint(model.core)
    assert len(first) == 64
    assert first != plans.fingerprint(model.core.double())
    model.core.float()
    with torch.no_grad():
        model.core.norm.num_batches_tracked += 1
    assert first != plans.fingerprint(model.core)


def base_with(**site):
    return {"bases": [{"name": "n", "model": "0", "sites": [{"name": "s", "channels": 4, **site}]}]}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "2"},
        {"unknown": 1},
        {"members": 0},
        {"members": 65},
        {"fusion": "majority"},
        {"preprocess": [{"kind": "jpeg", "quality": 0}]},
        {"preprocess": [{"kind": "blur"}]},
        {"bases": []},
        {"classes": ["one"]},
        {"prefix_share": 1.5},
        {"height": 0},
        {"bases": [{"name": "n", "model": "0", "sites": []}]},
        base_with(kind="skip", strength=1.0),
        base_with(kind="other", strength=0.1),
    ],
)
def test_values_out_of_range_are_refused(change, plan, model, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(msgspec.to_builtins(plan) | change))
    with pytest.raises(InputError, match="is no erosion plan") as caught:
        plans.read(path, model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[1, 2", b"[" * 100_000, b"null"])
def test_bytes_that_are_no_plan_are_refused(data, model, tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match="is no erosion plan"):
        plans.read(path, model)
    with pytest.raises(InputError, match="cannot be read"):
        plans.read(tmp_path / "missing.json", model)
    with pytest.raises(InputError, match="cannot be read"):
        plans.read(tmp_path, model)


def test_a_plan_of_the_first_schema_says_what_to_do(plan, model, tmp_path):
    path = tmp_path / "plan.json"
    old = msgspec.to_builtins(plan) | {"schema": 1, "model": "0" * 64, "sites": []}
    del old["bases"], old["fusion"]
    path.write_text(json.dumps(old))
    with pytest.raises(InputError, match=r"schema 1, this version reads 2; make it again"):
        plans.read(path, model)


@pytest.fixture
def two(model):
    """Two models, the second for larger images, and their plan."""
    torch.manual_seed(1)
    models = (model, Classifier(Tiny(), name="wide", size=(6, 12)))
    plan = plans.Plan(
        schema=2,
        classes=("ok", "hole"),
        height=8,
        width=12,
        bases=tuple(plans.Base.of(m, SITES) for m in models),
        preprocess=(),
        members=3,
        fusion="median",
        prefix_share=0.5,
        thresholds=None,
        settings={},
        figures={},
    )
    return models, plan


def test_a_plan_of_two_models_is_read_with_both_in_its_order(two, model, tmp_path):
    models, plan = two
    path = tmp_path / "plan.json"
    plans.write(plan, path)
    assert plans.read(path, *models) == plan
    for given, says in (
        (models[::-1], "has its models in the order tiny, wide"),
        (models[:1], "is for tiny, wide, not for tiny; give the plan's models"),
        ((*models, model), "is for tiny, wide, not for tiny, wide, tiny"),
        ((model, model), "other weights than tiny"),
    ):
        with pytest.raises(ModelError, match=says):
            plans.read(path, *given)


def test_models_of_other_sizes_or_classes_are_refused(two):
    models, plan = two
    change = msgspec.structs.replace
    with pytest.raises(ModelError, match="for 8x13 pixels, tiny, wide take 8x12"):
        plans.require_fit(change(plan, width=13), models)
    with pytest.raises(ModelError, match="names 3 classes, tiny has 2 outputs"):
        plans.require_fit(change(plan, classes=("a", "b", "c")), models)


def test_sites_of_several_models_have_names_of_their_own(two, plan):
    assert plan.sites == SITES
    names = [site.name for site in two[1].sites]
    assert names == ["0/activation:relu", "1/activation:relu"]
