"""A real TensorRT parses and builds: ``tensorrt_rtx``, which needs no GPU and cannot run here."""

import onnx
import pytest

from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.engine import Span, build
from deepfusion_edge.runtime.trt import try_build

rtx = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt-rtx has wheels for Linux and Windows on x86-64 only"
)
pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")


@pytest.fixture
def model(toy):
    return toy(6, 4, (8, 8))


def test_the_graph_is_parsed_and_built_for_a_span_of_members(model):
    library, built = try_build(model.SerializeToString(), Span(1, 2, 8))
    assert library == f"tensorrt_rtx {rtx.__version__}"
    assert len(built.engine) > 1000
    assert built.seconds > 0


def test_a_graph_that_it_refuses_is_refused_with_its_reason(model):
    model.graph.node[4].op_type = "Softmaxx"
    with pytest.raises(ModelError, match=r"does not take the graph: .*Softmaxx") as caught:
        build(rtx, model.SerializeToString(), Span(1, 2, 8))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="does not take the graph"):
        build(rtx, b"garbage", Span(1, 2, 8))


def test_random_operators_are_refused(model):
    """Why factors are an input: TensorRT has no Bernoulli."""
    model.graph.node[2].input[1] = "kept"
    model.graph.node.insert(0, onnx.helper.make_node("Bernoulli", ["factors"], ["kept"]))
    with pytest.raises(ModelError, match=r"does not take the graph: .*Bernoulli"):
        build(rtx, model.SerializeToString(), Span(1, 2, 8))


def test_a_graph_of_other_names_is_refused(model):
    model.graph.output[0].name = "probabilities"
    next(n for n in model.graph.node if "fused" in n.output).output[0] = "probabilities"
    with pytest.raises(ModelError, match=r"outputs are .*probabilities, not fused"):
        build(rtx, model.SerializeToString(), Span(1, 2, 8))


def test_a_span_out_of_order_is_refused(model):
    with pytest.raises(ModelError):
        build(rtx, model.SerializeToString(), Span(4, 2, 8))
