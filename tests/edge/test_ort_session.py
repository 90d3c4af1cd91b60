"""ONNX Runtime behind the protocol: it agrees with numpy, and everything unfit is named."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepfusion_edge import erosion
from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.base import Session
from deepfusion_edge.runtime.ort import OrtSession

pytestmark = pytest.mark.processor


@pytest.fixture
def model(toy):
    return toy(6, 4, (8, 8))


@pytest.fixture
def image():
    pixels = erosion.uniform(1, 0, 3 * 64).reshape(1, 3, 8, 8)
    return pixels.astype(np.float32)


@pytest.mark.parametrize("members", [1, 2, 5, 32])
def test_one_graph_serves_every_number_of_members(model, image, toy_reference, members):
    session: Session = OrtSession(model.SerializeToString(), threads=1)
    sites = [erosion.Site(name="a", kind="skip", channels=6, strength=0.5)]
    factors = erosion.sample(sites, seed=3, stream=0, members=members)
    found, wanted = session.run(image, factors), toy_reference(image, factors, 6, 4)
    assert found.fused.dtype == found.members.dtype == np.float32
    assert isinstance(found.feature_variance, float)
    np.testing.assert_allclose(found.fused, wanted.fused, atol=1e-6)
    np.testing.assert_allclose(found.members, wanted.members, atol=1e-6)
    assert found.feature_variance == pytest.approx(wanted.feature_variance, abs=1e-6)


def test_the_provider_that_runs_is_said(model):
    assert OrtSession(model.SerializeToString()).provider == "CPUExecutionProvider"


def test_a_provider_that_is_not_there_is_never_replaced(model):
    with pytest.raises(ModelError, match="has no TensorrtExecutionProvider, only"):
        OrtSession(model.SerializeToString(), provider="TensorrtExecutionProvider")


def test_a_missing_runtime_is_named_with_its_remedy(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install deepfusion-edge\[ort\]"):
        OrtSession(model.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x08\x09"])
def test_garbage_is_a_model_error_on_one_line(data):
    with pytest.raises(ModelError, match="does not take the model") as caught:
        OrtSession(data)
    assert "\n" not in str(caught.value)


def test_unknown_operators_are_a_model_error(model):
    model.graph.node[4].op_type = "Softmaxx"
    with pytest.raises(ModelError, match="does not take the model"):
        OrtSession(model.SerializeToString())


def test_other_names_are_refused(model):
    for values, old, new in (
        (model.graph.input, "image", "pixels"),
        (model.graph.output, "fused", "probabilities"),
    ):
        changed = type(model).FromString(model.SerializeToString())
        for node in changed.graph.node:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    names[at] = new if name == old else name
        for value in (*changed.graph.input, *changed.graph.output):
            value.name = new if value.name == old else value.name
        assert old in [value.name for value in values]
        with pytest.raises(ModelError, match=f"{new}.*, not "):
            OrtSession(changed.SerializeToString())


def test_shapes_that_do_not_fit_are_a_model_error(model, image):
    session = OrtSession(model.SerializeToString(), threads=1)
    with pytest.raises(ModelError, match="does not run"):
        session.run(image, np.ones((2, 5), np.float32))
    with pytest.raises(ModelError, match="does not run"):
        session.run(image[:, :1], np.ones((2, 6), np.float32))
    with pytest.raises(ModelError, match="does not run"):
        session.run(image.astype(np.float64), np.ones((2, 6), np.float32))


def test_outputs_of_another_shape_are_refused(model, image):
    for node in model.graph.node:
        if "fused" in node.output:
            next(a for a in node.attribute if a.name == "keepdims").i = 1
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("fused", TensorProto.FLOAT, [1, 4])
    )
    session = OrtSession(model.SerializeToString(), threads=1)
    with pytest.raises(ModelError, match="outputs have the shapes"):
        session.run(image, np.ones((2, 6), np.float32))


def test_several_bases_give_so_many_members_a_row(model, image):
    """Here the second base is the first one's members again, or only the first of them."""
    for last, fits in ((2**31, True), (1, False)):
        two = onnx.ModelProto()
        two.CopyFrom(model)
        for node in two.graph.node:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    names[at] = "half" if name == "members" else name
        ends = {"from": [0], "to": [last]}
        two.graph.initializer.extend(
            numpy_helper.from_array(np.array(value, np.int64), name) for name, value in ends.items()
        )
        two.graph.node.append(helper.make_node("Slice", ["half", "from", "to"], ["again"]))
        two.graph.node.append(helper.make_node("Concat", ["half", "again"], ["members"], axis=0))
        del two.graph.output[1].type.tensor_type.shape.dim[0]
        two.graph.output[1].type.tensor_type.ClearField("shape")
        session = OrtSession(two.SerializeToString(), threads=1)
        factors = np.ones((2, 6), np.float32)
        if fits:
            assert session.run(image, factors).members.shape == (4, 4)
        else:
            with pytest.raises(ModelError, match=r"\(3, 4\), \(\) for K = 2, not \[C\], \[a mult"):
                session.run(image, factors)


def test_nan_weights_are_found_at_the_first_run(model, image):
    for tensor in model.graph.initializer:
        if tensor.name == "mix":
            broken = np.full((3, 6), np.nan, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(broken, "mix"))
    session = OrtSession(model.SerializeToString(), threads=1)
    with pytest.raises(ModelError, match="not a finite number"):
        session.run(image, np.ones((2, 6), np.float32))
