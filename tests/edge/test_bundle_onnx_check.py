"""The structural check, against files that the onnx package wrote."""

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from deepfusion_edge.bundle.onnx_check import SCHEMA, check_onnx
from deepfusion_edge.errors import ModelError

pytestmark = pytest.mark.processor


@pytest.fixture
def model(toy) -> onnx.ModelProto:
    return toy(3, 3, (8, 8))


def outside(name="w") -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def _kind(field) -> str:
    if field.message_type is not None:
        return field.message_type.name
    many = "s" if field.is_repeated else ""
    if field.type in {field.TYPE_STRING, field.TYPE_BYTES}:
        return "bytes"
    if field.type == field.TYPE_FLOAT:
        return "float" + many
    return ("double" if field.type == field.TYPE_DOUBLE else "int") + many


def test_the_walk_knows_exactly_the_fields_of_the_onnx_package():
    for name, fields in SCHEMA.items():
        descriptor = getattr(onnx, name).DESCRIPTOR
        assert {field.number: _kind(field) for field in descriptor.fields} == fields, name


def _holds(descriptor, seen) -> bool:
    """Whether a tensor, a graph or a node can be somewhere below a message."""
    if descriptor.name in {"TensorProto", "GraphProto", "NodeProto"}:
        return True
    below = [field.message_type for field in descriptor.fields if field.message_type]
    return any(_holds(one, seen | {one.name}) for one in below if one.name not in seen)


def test_messages_that_the_walk_skips_cannot_hold_a_tensor():
    for name in SCHEMA:
        for field in getattr(onnx, name).DESCRIPTOR.fields:
            child = field.message_type
            if child is not None and child.name not in {*SCHEMA, "TrainingInfoProto"}:
                assert not _holds(child, {child.name}), child.name


def test_a_good_model_passes(model):
    check_onnx(model.SerializeToString())


def _initialiser(model):
    model.graph.initializer.append(outside())


def _only_location(model):
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _only_entries(model):
    model.graph.initializer[0].external_data.add(key="location", value="x")


def _sparse_values(model):
    model.graph.sparse_initializer.add().values.CopyFrom(outside())


def _sparse_indices(model):
    model.graph.sparse_initializer.add().indices.CopyFrom(outside())


def _constant(model):
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(outside())
    model.graph.node.append(node)


def _tensors(model):
    attribute = model.graph.node[0].attribute.add(name="x", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(outside())


def _sparse_attribute(model):
    attribute = model.graph.node[0].attribute.add(name="x")
    attribute.sparse_tensor.values.CopyFrom(outside())


def _sparse_attributes(model):
    attribute = model.graph.node[0].attribute.add(name="x")
    attribute.sparse_tensors.add().values.CopyFrom(outside())


def _branch(tensor) -> onnx.GraphProto:
    return helper.make_graph([], "branch", [], [], [tensor])


def _subgraph(model):
    graph = _branch(outside())
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=graph))


def _subgraph_of_subgraph(model):
    inner = helper.make_node("If", ["c"], ["d"], then_branch=_branch(outside()))
    outer = helper.make_graph([inner], "outer", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=outer))


def _graphs(model):
    attribute = model.graph.node[0].attribute.add(name="x", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.append(_branch(outside()))


def _function(model):
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(outside())
    model.functions.add(name="f", domain="own").node.append(node)


def _function_default(model):
    model.functions.add(name="f", domain="own").attribute_proto.add(name="a").t.CopyFrom(outside())


@pytest.mark.parametrize(
    "change",
    [
        _initialiser, _only_location, _only_entries, _sparse_values, _sparse_indices, _constant,
        _tensors, _sparse_attribute, _sparse_attributes, _subgraph, _subgraph_of_subgraph,
        _graphs, _function, _function_default,
    ],
)  # fmt: skip
def test_external_data_is_found_wherever_it_hides(model, change):
    change(model)
    with pytest.raises(ModelError, match="keeps weights outside of its file"):
        check_onnx(model.SerializeToString())


def test_external_data_as_the_onnx_package_saves_it(model, tmp_path):
    big = helper.make_tensor("big", TensorProto.FLOAT, [1024], bytes(4096), raw=True)
    model.graph.initializer.append(big)
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    with pytest.raises(ModelError, match="keeps weights outside of its file"):
        check_onnx((tmp_path / "m.onnx").read_bytes())


def test_operators_outside_of_the_standard_are_refused(model):
    model.graph.node[0].domain = "com.microsoft"
    with pytest.raises(ModelError, match=r"operator 'ReduceMean' of 'com.microsoft'"):
        check_onnx(model.SerializeToString())


def test_operators_in_subgraphs_and_functions_are_judged_too(model):
    bad = helper.make_node("EPContext", [], ["c"], domain="com.microsoft")
    branch = helper.make_graph([bad], "branch", [], [])
    plain = model.SerializeToString()
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch))
    with pytest.raises(ModelError, match="'EPContext'"):
        check_onnx(model.SerializeToString())
    model.ParseFromString(plain)
    model.functions.add(name="f", domain="own").node.append(bad)
    with pytest.raises(ModelError, match="'EPContext'"):
        check_onnx(model.SerializeToString())


def test_functions_of_the_model_itself_may_be_called(model):
    model.graph.node.append(helper.make_node("Twice", ["fused"], ["d"], domain="own"))
    with pytest.raises(ModelError, match="'Twice' of 'own'"):
        check_onnx(model.SerializeToString())
    model.functions.add(name="Twice", domain="own")
    check_onnx(model.SerializeToString())
    model.graph.node.append(helper.make_node("EPContext", [], ["e"], domain="own"))
    with pytest.raises(ModelError, match="'EPContext' of 'own'"):
        check_onnx(model.SerializeToString())


def _rename_input(model):
    model.graph.input[0].name = "pixels"


def _drop_output(model):
    del model.graph.output[1]


def _more_outputs(model):
    model.graph.output.add(name="secret")


def _no_graph(model):
    model.ClearField("graph")


def _training(model):
    model.training_info.add()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_rename_input, "inputs are 'factors', 'pixels', not image, factors"),
        (_drop_output, "outputs are 'feature_variance', 'fused', not fused, members"),
        (_more_outputs, "'secret'"),
        (_no_graph, "has 0 graphs"),
        (_training, "training information"),
    ],
)
def test_other_shapes_of_model_are_refused(model, change, text):
    change(model)
    with pytest.raises(ModelError, match=text):
        check_onnx(model.SerializeToString())


def test_two_graphs_that_a_runtime_would_merge_are_refused(model):
    data = model.SerializeToString()
    with pytest.raises(ModelError, match="has 2 graphs"):
        check_onnx(data + onnx.ModelProto(graph=onnx.GraphProto(name="x")).SerializeToString())


def _field(number: int, content: bytes) -> bytes:
    """Spell a field of bytes by hand: the onnx package itself refuses to nest so deeply."""
    tag, size = number << 3 | 2, len(content)
    assert tag < 128
    spelled = bytearray()
    while size > 127:
        spelled.append(size & 127 | 128)
        size >>= 7
    return bytes([tag, *spelled, size]) + content


@pytest.mark.parametrize(("levels", "passes"), [(20, True), (32, True), (34, False), (500, False)])
def test_deep_nesting_is_refused_and_shallow_is_not(model, levels, passes):
    graph = _field(2, b"leaf")
    for _ in range(levels):
        graph = _field(1, _field(5, _field(6, graph)))
    model.ClearField("opset_import")
    data = _field(7, model.graph.SerializeToString() + graph)
    if passes:
        check_onnx(data)
    else:
        with pytest.raises(ModelError, match="nested deeper than 100"):
            check_onnx(data)


@pytest.mark.parametrize(
    ("tail", "text"),
    [
        (b"\xff" * 11, "within a number"),
        (b"\x80", "within a number"),
        (b"\x3a\x7f", "truncated"),
        (b"\x0b", "wire type 3"),
        (b"\x3d\x00\x00\x00\x00", "field 7 of ModelProto has wire 5"),
        (b"\xba\x06\x00", "unknown field 103 in ModelProto"),
        (b"\x00\x00", "unknown field 0"),
    ],
)
def test_malformed_protobuf_is_refused(model, tail, text):
    with pytest.raises(ModelError, match=text):
        check_onnx(model.SerializeToString() + tail)


def test_every_truncation_is_refused(model):
    data = model.SerializeToString(deterministic=True)
    for size in range(len(data)):
        if not _whole(data[:size]):
            with pytest.raises(ModelError):
                check_onnx(data[:size])


def _whole(data: bytes) -> bool:
    """Whether the cut removed only what comes after the graph."""
    try:
        return len(onnx.ModelProto.FromString(data).graph.output) == 3
    except DecodeError:
        return False


@given(data=st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_garbage_is_refused_and_nothing_else_happens(data):
    with pytest.raises(ModelError):
        check_onnx(data)


@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_passes_after_a_change_and_can_be_parsed_has_no_external_data(model, at, value):
    data = bytearray(model.SerializeToString())
    data[at % len(data)] = value
    try:
        check_onnx(bytes(data))
        parsed = onnx.ModelProto.FromString(bytes(data))
    except (ModelError, DecodeError):
        return
    for tensor in parsed.graph.initializer:
        assert not tensor.external_data
        assert tensor.data_location == TensorProto.DEFAULT
