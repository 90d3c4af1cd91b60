"""From a user's ONNX file to a bundle that the device installs."""

import json
import warnings

import numpy as np
import onnxruntime
import pytest
import torch

from deepfusion_edge import erosion
from deepfusion_edge.bundle import store
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.cli import main
from deepfusion_export.parity import softmax
from deepfusion_toolkit.models import load
from deepfusion_toolkit.plan import write
from deepfusion_toolkit.surgery.graph import quiet
from tests.export.conftest import SIZE, Mixer, ResNet, make_model, make_plan

NORMALISED = "@0.5,0.4,0.3/0.2,0.25,0.3"


@pytest.mark.parametrize("family", [ResNet, Mixer])
def test_the_device_computes_what_onnx_runtime_computes_of_the_users_file(
    family, tmp_path, files, capsys
):
    path = tmp_path / "user.onnx"
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net, example = make_model(family).core, torch.zeros(1, 3, *SIZE)
        torch.onnx.export(net, (example,), path, dynamo=False, opset_version=17)
    spec = f"{path}{NORMALISED}"
    plan = make_plan(load(spec))
    write(plan, tmp_path / "plan.json")
    out = tmp_path / "line.dfb"
    words = ["bundle", "--model", spec, "--plan", tmp_path / "plan.json", "--key", files.key]
    words += ["--out", out, "--json"]
    assert main([str(word) for word in words]) == 0
    parity = json.loads(capsys.readouterr().out)["parity"]
    assert max(parity["members"], parity["fused"]) < 1e-5
    installed = store.install(out, tmp_path / "state", [files.public], now="2027-01-01T00:00:00Z")
    device = OrtSession(installed.model_bytes(), threads=1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, *SIZE), dtype=np.float32)
    mean, std = (np.float32(v).reshape(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    (scores,) = session.run(None, {session.get_inputs()[0].name: (image - mean) / std})
    found = device.run(image, erosion.identity(plan.sites, 2)).members
    np.testing.assert_allclose(found, np.repeat(softmax(scores), 2, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--frame", "1280"], "'1280' is not a size such as 1280x960"),
        (["--frame", "0x960"], "is not a size"),
        (["--frame", "5000x960"], "at most 4096 pixels"),
        (["--color", "BGR"], "--color BGR needs --frame"),
        (["--images", "65"], "whole number in 1..64"),
    ],
)
def test_forms_that_do_not_exist_are_usage_errors(words, text, files, tmp_path, capsys):
    given = ["bundle", "--model", files.model, "--plan", files.plan, "--key", files.key]
    code = main([str(word) for word in [*given, "--out", tmp_path / "x.dfb", *words]])
    assert (code, text in capsys.readouterr().err) == (2, True)
