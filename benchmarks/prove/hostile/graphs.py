"""ONNX graphs that reach outside of their file, or break their form."""

from collections.abc import Callable

import onnx
from onnx import TensorProto, helper

from benchmarks.prove.hostile import toy
from benchmarks.prove.hostile.case import model
from benchmarks.prove.hostile.world import World
from deepfusion_edge.bundle.onnx_check import MAX_MODEL_BYTES, check_onnx

Change = Callable[[onnx.ModelProto], object]


_WORDS = "model keeps weights outside of its file"


def _outside(location: str = "../../../../etc/passwd") -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def _graph(change: Change) -> Callable[[World], str]:
    def drive(world: World) -> str:
        model = toy.graph()
        change(model)
        return _bytes(toy.spelled(model))(world)

    return drive


def _bytes(content: bytes) -> Callable[[World], str]:
    return lambda world: world.install(world.pack(world.members(model=content)))


def _entries_only(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="w.bin")


def _location_only(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _constant(tensor: TensorProto) -> onnx.NodeProto:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    return node


def _branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [_outside()])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch))


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(_outside())


def _function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="own").node.append(_constant(_outside()))


def _contrib(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("EPContext", [], ["e"], domain="com.microsoft"))


def _hidden_contrib(model: onnx.ModelProto) -> None:
    bad = helper.make_node("EPContext", [], ["e"], domain="com.microsoft")
    branch = helper.make_graph([bad], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch))


def _rename(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "pixels"


def _more_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.add(name="secret")


def _nested(levels: int) -> bytes:
    """Spell graphs in branches of graphs, deeper than the onnx package does."""
    graph = b""
    for _ in range(levels):
        attribute = _field(6, graph)
        graph = _field(1, _field(5, attribute))
    return _field(7, graph)


def _field(number: int, content: bytes) -> bytes:
    size, rest = b"", len(content)
    while rest > 127:
        size, rest = size + bytes([rest % 128 | 128]), rest // 128
    return bytes([number << 3 | 2]) + size + bytes([rest]) + content


class _Large(bytes):
    def __len__(self) -> int:
        return MAX_MODEL_BYTES + 1


def _too_large(_world: World) -> str:
    check_onnx(_Large(b"x"))
    return "taken"


def model_outside() -> bytes:
    """Make a graph whose weights lie in another file."""
    model = toy.graph()
    model.graph.initializer.append(_outside())
    return toy.spelled(model)


_FAR = "external data by its location"


CASES = (
    model(
        "weights outside, ../../etc/passwd",
        "external data by its entries",
        _graph(lambda m: m.graph.initializer.append(_outside())),
        _WORDS,
    ),
    model(
        "weights outside, an absolute path",
        "external data by its entries",
        _graph(lambda m: m.graph.initializer.append(_outside("/etc/shadow"))),
        _WORDS,
    ),
    model(
        "entries of external data alone",
        "external data by its entries",
        _graph(_entries_only),
        _WORDS,
    ),
    model("a location of external data alone", _FAR, _graph(_location_only), _WORDS),
    model(
        "weights outside in a constant",
        "tensors of attributes",
        _graph(lambda m: m.graph.node.append(_constant(_outside()))),
        _WORDS,
    ),
    model("weights outside in a branch", "graphs within graphs", _graph(_branch), _WORDS),
    model("weights outside in a sparse tensor", "sparse tensors", _graph(_sparse), _WORDS),
    model("weights outside in a function", "functions", _graph(_function), _WORDS),
    model(
        "an operator that names files",
        "operators",
        _graph(_contrib),
        "the operator 'EPContext' of 'com.microsoft', not of ONNX",
    ),
    model(
        "an operator that names files, in a branch",
        "graphs within graphs",
        _graph(_hidden_contrib),
        "the operator 'EPContext' of 'com.microsoft'",
    ),
    model("another input", "names of a graph", _graph(_rename), "the model's inputs are"),
    model("one more output", "names of a graph", _graph(_more_outputs), "the model's outputs are"),
    model(
        "training information",
        "training information",
        _graph(lambda m: m.training_info.add()),
        "training information",
    ),
    model(
        "no graph",
        "number of graphs",
        _graph(lambda m: m.ClearField("graph")),
        "model has 0 graphs, not one",
    ),
    model(
        "two graphs",
        "number of graphs",
        _bytes(toy.spelled(toy.graph()) + b"\x3a\x00"),
        "model has 2 graphs, not one",
    ),
    model(
        "a hundred graphs in each other",
        "depth of a graph",
        _bytes(_nested(100)),
        "nested deeper than 100",
    ),
    model(
        "a field that nobody knows",
        "fields of a graph",
        _bytes(toy.spelled(toy.graph()) + b"\xf8\x06\x01"),
        "unknown field 111 in ModelProto",
    ),
    model(
        "a group, which protobuf has given up",
        "wire types",
        _bytes(toy.spelled(toy.graph()) + b"\x0b\x0c"),
        "model is corrupt: wire type 3",
    ),
    model(
        "a number where a message belongs",
        "wire of a field",
        _bytes(b"\x38\x01"),
        "model is corrupt: field 7 of ModelProto has wire 0",
    ),
    model("cut off", "end of a field", _bytes(toy.spelled(toy.graph())[:-9]), "model is truncated"),
    model(
        "a number without an end",
        "end of a number",
        _bytes(b"\x08" + b"\xff" * 12),
        "within a number",
    ),
    model("noise", "fields of a graph", _bytes(bytes(range(1, 200))), "model (has|is)"),
    model("more than 2 GB", "size of a graph", _too_large, "model has 2147483648 bytes, at most"),
)
