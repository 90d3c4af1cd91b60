"""FP16 and INT8 inside the same graph: what is converted, what is not, and a real parser's word."""

from collections import Counter

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, numpy_helper

from deepfusion_edge import erosion, fusion
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.engine import Span, build
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export import precision
from deepfusion_export.onnx import to_onnx
from deepfusion_export.precision import cut, to_fp16, to_int8
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.preprocess import BitDepth, Jpeg
from deepfusion_toolkit.surgery import erode

LOOSE = {"fp16": 3e-3, "int8": 0.15}
SCORES = {"Softmax", "Pow", "Div"}


def image_of(case, seed):
    height, width = case.model.size
    values = erosion.uniform(seed, 0, 3 * height * width)
    return values.astype(np.float32).reshape(1, 3, height, width)


def feeds(case, count=12, seed=0):
    for at in range(count):
        factors = erosion.sample(case.plan.sites, seed=seed, stream=at, members=4)
        yield {"image": image_of(case, at), "factors": factors}


@pytest.fixture(params=["fp16", "int8"])
def low(request, case):
    """A precision, and the case's graph in it."""
    if request.param == "fp16":
        return request.param, to_fp16(case.graph)
    return request.param, to_int8(case.graph, feeds(case))


def types(model):
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_it_is_near_fp32_and_not_the_same(case, low):
    name, graph = low
    ours, theirs = OrtSession(graph, threads=1), OrtSession(case.graph, threads=1)
    for at, members in enumerate((1, 4, 7)):
        factors = erosion.sample(case.plan.sites, seed=9, stream=at, members=members)
        a, b = (session.run(image_of(case, 50 + at), factors) for session in (ours, theirs))
        assert 0 < np.abs(a.members - b.members).max() < LOOSE[name]
        assert a.feature_variance == pytest.approx(b.feature_variance, rel=0.5, abs=1e-9)
        np.testing.assert_allclose(a.fused, fusion.fuse(a.members), atol=1e-6)


def test_a_device_may_load_it_and_it_is_the_same_every_time(case, low):
    name, graph = low
    check_onnx(graph)
    again = to_fp16(case.graph) if name == "fp16" else to_int8(case.graph, feeds(case))
    assert again == graph
    assert len(graph) < len(case.graph)
    assert b"quantization" not in graph.lower()


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
def test_a_real_tensorrt_takes_it(low):
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is for x86-64 alone")
    assert len(build(rtx, low[1], Span(1, 4, 8)).engine) > 1000


def test_inputs_scores_and_outputs_are_float32(case, low):
    model = onnx.load_from_string(low[1])
    found = types(model)
    network, scores = cut(model.graph)
    assert {node.op_type for node in scores} >= SCORES
    scores = [node for node in scores if node.op_type != "Cast"]  # where the network ends
    before = cut(onnx.load_from_string(case.graph).graph)[1]
    assert Counter(n.op_type for n in scores) == Counter(n.op_type for n in before)
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16}
    for node in scores:
        for name in (*node.input, *node.output):
            assert found.get(name, TensorProto.FLOAT) not in floats - {TensorProto.FLOAT}, name
    for value in (*model.graph.input, *model.graph.output):
        assert found[value.name] == TensorProto.FLOAT
    assert not {"QuantizeLinear"} & {node.op_type for node in scores}
    assert network


def test_fp16_is_in_weights_and_not_in_sums(case):
    model = onnx.load_from_string(to_fp16(case.graph))
    found = types(model)
    for node in cut(model.graph)[0]:
        kinds = {found[name] for name in node.input if name in found}
        if node.op_type in {"Conv", "Gemm", "MatMul"}:
            assert kinds == {TensorProto.FLOAT16}, node.op_type
        if node.op_type in precision.SENSITIVE:
            assert TensorProto.FLOAT16 not in kinds, node.op_type


def test_constants_of_the_scores_are_kept_to_the_last_bit(case, low):
    """Why the graph is cut: the variance is scaled by 1e12, and FP16 ends at 65504."""

    def constants(data):
        graph = onnx.load_from_string(data).graph
        used = {name for node in cut(graph)[1] for name in node.input}
        arrays = [numpy_helper.to_array(t) for t in graph.initializer if t.name in used]
        return sorted(repr(array.tolist()) for array in arrays if array.dtype == np.float32), arrays

    before, arrays = constants(case.graph)
    assert constants(low[1])[0] == before
    assert max(np.abs(array).max(initial=0) for array in arrays if array.dtype.kind == "f") > 65504


def test_int8_is_symmetric_per_channel_and_leaves_biases_alone(case):
    model = onnx.load_from_string(to_int8(case.graph, feeds(case)))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    quantising = [
        n for n in model.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"}
    ]
    for node in quantising:
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()
    assert any(constants[node.input[1]].ndim and len(constants[node.input[1]]) > 1
               for node in quantising)  # fmt: skip
    first, *layers = [n for n in model.graph.node if n.op_type in precision.QUANTISED]
    assert layers
    assert makers.get(first.input[1]) is None
    assert constants[first.input[1]].dtype == np.float32
    for node in layers:
        for name in node.input[:2]:
            assert makers[name].op_type == "DequantizeLinear"
        for name in node.input[2:]:
            assert constants[name].dtype == np.float32


def test_ranges_come_from_the_images_and_the_factors(case):
    plain = [feed | {"factors": np.ones_like(feed["factors"])} for feed in feeds(case)]
    dark = [feed | {"image": feed["image"] / 10} for feed in feeds(case)]
    graphs = {to_int8(case.graph, given) for given in (list(feeds(case)), plain, dark)}
    assert len(graphs) == 3


def test_the_cut_is_behind_the_networks(case):
    graph = onnx.load_from_string(case.graph).graph
    network, scores = cut(graph)
    assert len(network) + len(scores) == len(graph.node)
    heavy = Counter(node.op_type for node in graph.node if node.op_type in precision.QUANTISED)
    assert Counter(n.op_type for n in network if n.op_type in precision.QUANTISED) == heavy
    assert "Softmax" in {node.op_type for node in scores}


def test_stages_of_preprocessing_stay_fp32(case):
    """JPEG's rounding to whole coefficients is not for half precision."""
    plan = replace(case.plan, preprocess=(Jpeg(quality=60), BitDepth(bits=5)))
    graph = to_onnx(Defended.of([case.model], plan), 4)
    stages = [n for n in onnx.load_from_string(graph).graph.node if n.op_type in {"Floor", "Sign"}]
    assert stages
    for made in (to_fp16(graph), to_int8(graph, feeds(case))):
        model = onnx.load_from_string(made)
        network = {node.output[0] for node in cut(model.graph)[0]}
        found = types(model)
        rounding = [n for n in model.graph.node if n.op_type in {"Floor", "Sign"}]
        assert len(rounding) == len(stages)
        for node in rounding:
            assert node.output[0] not in network
            assert found[node.output[0]] == TensorProto.FLOAT


def test_products_that_resize_are_no_layers(case):
    """They stand before a network that takes a smaller image than the frame."""
    smaller = Classifier(case.model.core, name="smaller", size=(12, 12))
    sites = case.plan.bases[0].sites
    graph = to_onnx(Defended(erode(case.model, sites), erode(smaller, sites)), 2)
    model = onnx.load_from_string(to_fp16(graph))
    found, weights = types(model), {t.name for t in model.graph.initializer}
    left = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[0] in weights]
    assert left
    assert {found[node.output[0]] for node in left} == {TensorProto.FLOAT}
    layers = [n for n in model.graph.node if n.op_type in {"Conv", "MatMul"} and n not in left]
    assert {found[node.output[0]] for node in layers} == {TensorProto.FLOAT16}


def test_another_graph_is_refused():
    node = onnx.helper.make_node("Relu", ["image"], ["members"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "odd",
        [value("image", TensorProto.FLOAT, [1])],
        [value("members", TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(graph).SerializeToString()
    for convert in (to_fp16, lambda data: to_int8(data, [])):
        with pytest.raises(ModelError, match="no softmax before its members"):
            convert(model)


def test_no_calibration_and_garbage_are_model_errors(case):
    for convert in (lambda: to_int8(case.graph, []), lambda: to_fp16(b"garbage")):
        with pytest.raises(ModelError, match="cannot be converted") as caught:
            convert()
        assert "\n" not in str(caught.value)
