"""The golden probe runs apart, within limits, and what fails it is never swapped in."""

import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepfusion_edge.bundle.manifest import GOLDEN, MANIFEST, Golden, parse_manifest
from deepfusion_edge.bundle.store import install, load_current, verify
from deepfusion_edge.bundle.trial import Limits, try_model
from deepfusion_edge.errors import InputError, ModelError
from deepfusion_edge.fusion import MEAN, Outputs
from deepfusion_edge.probe import compare, read_golden

NOW = "2026-06-01T00:00:00Z"


def refuse(bundle, keys, state, text, **limits):
    """Check that the bundle is refused, and that the state is as good as untouched."""
    with pytest.raises(ModelError, match=text) as caught:
        install(bundle, state, [keys.public], now=NOW, limits=Limits(**limits))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no bundle installed"):
        load_current(state, now=NOW)
    assert sorted(path.name for path in state.iterdir()) == ["lock"]


def golden_of(folder) -> tuple[Golden, object]:
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    return read_golden((folder / GOLDEN).read_bytes(), manifest), manifest


def test_a_good_bundle_answers_with_figures(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "plain")
    command = [sys.executable, "-m", "deepfusion_edge.probe", str(folder)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""
    answer = json.loads(done.stdout)
    assert answer["ok"] is True
    assert answer["provider"] == "CPUExecutionProvider"
    assert 0 <= answer["difference"] < 1e-5
    try_model(folder)


def test_golden_outputs_of_another_model_are_refused(make_bundle, keys, tmp_path):
    golden, _ = golden_of(make_bundle(tmp_path / "plain"))
    other = msgspec.structs.replace(golden, fused=golden.fused[::-1])
    bundle = make_bundle(tmp_path / "line.dfb", golden=other)
    refuse(bundle, keys, tmp_path / "state", "golden probe: fused probabilities differ by")


def test_golden_feature_variance_counts_too(make_bundle, keys, tmp_path):
    golden, _ = golden_of(make_bundle(tmp_path / "plain"))
    other = msgspec.structs.replace(golden, feature_variance=golden.feature_variance + 2e-4)
    bundle = make_bundle(tmp_path / "line.dfb", golden=other)
    refuse(bundle, keys, tmp_path / "state", "golden probe: feature variance differ")


def test_a_golden_file_that_does_not_fit_is_refused(make_bundle, keys, tmp_path):
    golden, _ = golden_of(make_bundle(tmp_path / "plain"))
    other = msgspec.structs.replace(golden, fused=(1.0,))
    bundle = make_bundle(tmp_path / "line.dfb", golden=other)
    refuse(bundle, keys, tmp_path / "state", "1 probabilities for 3 classes")


def test_a_model_of_other_classes_is_refused(make_bundle, toy, keys, tmp_path):
    model = toy(3, 4, (8, 8)).SerializeToString()
    bundle = make_bundle(tmp_path / "line.dfb", model=model)
    refuse(bundle, keys, tmp_path / "state", "the model has 4 classes, the manifest 3")


def test_a_model_of_another_number_of_bases_is_refused(make_bundle, keys, tmp_path):
    def two(manifest):
        erosion = msgspec.structs.replace(manifest.erosion, bases=2)
        return msgspec.structs.replace(manifest, erosion=erosion)

    bundle = make_bundle(tmp_path / "line.dfb", mutate=two)
    refuse(bundle, keys, tmp_path / "state", "fuses 4 members for 4 rows .* names 2 bases")


def test_a_model_of_other_factors_is_refused(make_bundle, toy, keys, tmp_path):
    model = toy(5, 3, (8, 8)).SerializeToString()
    bundle = make_bundle(tmp_path / "line.dfb", model=model)
    refuse(bundle, keys, tmp_path / "state", "the model does not run")


def test_a_probe_that_takes_too_long_is_stopped(make_bundle, keys, tmp_path):
    bundle = make_bundle(tmp_path / "line.dfb")
    refuse(bundle, keys, tmp_path / "state", "took longer than 0.01 s", timeout_s=0.01)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("kill -SEGV $$", "ended by signal 11 and no result"),
        ("exit 3", "ended with code 3 and no result"),
        ("echo 'no json'", "ended with code 0 and no result"),
        ('echo \'{"ok": 1, "what": "", "remedy": ""}\'', "ended with code 0"),
        ('echo \'{"ok": true, "what": "", "remedy": ""}\'; exit 1', "ended with code 1"),
    ],
)
def test_a_probe_that_crashes_is_refused(make_bundle, keys, tmp_path, monkeypatch, script, text):
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    refuse(make_bundle(tmp_path / "line.dfb"), keys, tmp_path / "state", text)


def test_a_memory_limit_too_small_for_the_runtime_is_refused(make_bundle, keys, tmp_path):
    bundle = make_bundle(tmp_path / "line.dfb")
    refuse(
        bundle,
        keys,
        tmp_path / "state",
        "cannot be loaded|no result|needs more",
        memory_bytes=24 * 2**20,
    )


def test_a_model_that_wants_too_much_memory_is_refused(make_bundle, toy, keys, tmp_path):
    model = toy(3, 3, (8, 8))
    model.graph.initializer.append(
        numpy_helper.from_array(np.array([3 * 2**28], np.int64), "shape")
    )
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [0.0])
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["big"], value=one))
    model.graph.node.insert(1, helper.make_node("ReduceMax", ["big"], ["nought"], keepdims=0))
    model.graph.node.insert(2, helper.make_node("Add", ["mean", "nought"], ["mean2"]))
    nodes = list(model.graph.node)
    mean = next(node for node in nodes if node.output[0] == "mean")
    nodes.remove(mean)
    for node in nodes:
        if node.op_type == "MatMul" and node.input[0] == "mean":
            node.input[0] = "mean2"
    del model.graph.node[:]
    model.graph.node.extend([mean, *nodes])
    bundle = make_bundle(tmp_path / "line.dfb", model=model.SerializeToString())
    refuse(bundle, keys, tmp_path / "state", "model", memory_bytes=2 * 2**30)


def test_verify_probes_as_install_does(make_bundle, keys, tmp_path):
    golden, _ = golden_of(make_bundle(tmp_path / "plain"))
    other = msgspec.structs.replace(golden, fused=golden.fused[::-1])
    bundle = make_bundle(tmp_path / "line.dfb", golden=other)
    with pytest.raises(ModelError, match="golden probe"):
        verify(bundle, [keys.public], now=NOW)
    verify(bundle, [keys.public], now=NOW, probe=False)


def test_a_folder_named_like_a_module_is_not_imported(make_bundle, tmp_path, monkeypatch):
    folder = make_bundle(tmp_path / "plain")
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    try_model(folder)


def test_compare_knows_each_of_its_three_differences():
    golden = Golden(image_seed=0, factor_seed=0, members=2, fused=(0.25, 0.75), feature_variance=4)
    members = np.array([[0.2, 0.8], [0.3, 0.7]], np.float32)
    good = Outputs(np.array([0.25, 0.75], np.float32), members, 4.0)
    assert compare(good, golden, 1e-3, MEAN) == pytest.approx(0, abs=1e-6)
    assert compare(good._replace(feature_variance=4.002), golden, 1e-3, MEAN) == pytest.approx(5e-4)
    for bad, text in (
        (good._replace(fused=np.array([0.3, 0.7], np.float32)), "fused probabilities"),
        (good._replace(members=members[:1]), "reference rule"),
        (good._replace(feature_variance=4.01), "feature variance"),
        (good._replace(feature_variance=float("nan")), "feature variance"),
        (good._replace(fused=np.array([1.0], np.float32)), "1 classes"),
    ):
        with pytest.raises(ModelError, match=text):
            compare(bad, golden, 1e-3, MEAN)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"members":NaN}'])
def test_malformed_golden_files_are_model_errors(make_bundle, tmp_path, data):
    _, manifest = golden_of(make_bundle(tmp_path / "plain"))
    with pytest.raises(ModelError, match="not valid"):
        read_golden(data, manifest)
