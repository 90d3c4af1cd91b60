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
        schema=1,
        model=plans.fingerprint(model.core),
        classes=("ok", "hole"),
        height=8,
        width=8,
        sites=(Site("activation:relu", "activation", 4, 0.1),),
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
    assert path.read_text().startswith('{\n "schema": 1,')


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


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"unknown": 1},
        {"members": 0},
        {"members": 65},
        {"fusion": "majority"},
        {"sites": []},
        {"classes": ["one"]},
        {"prefix_share": 1.5},
        {"height": 0},
        {"sites": [{"name": "s", "kind": "skip", "channels": 4, "strength": 1.0}]},
        {"sites": [{"name": "s", "kind": "other", "channels": 4, "strength": 0.1}]},
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
