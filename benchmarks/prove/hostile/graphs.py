"""ONNX graphs that reach outside of their file, break their form, or fail when they run."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.prove.hostile import toy
from benchmarks.prove.hostile.case import Case
from benchmarks.prove.hostile.world import World, compact
from deepfusion_edge import probe
from deepfusion_edge.bundle.manifest import GOLDEN, canonical
from deepfusion_edge.bundle.onnx_check import MAX_MODEL_BYTES, check_onnx
from deepfusion_edge.bundle.trial import Limits
from deepfusion_edge.errors import ModelError

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


# What runs: in this process what the probe's own guards refuse, in the probe's what may do harm.


def _weights(name: str, values: Any) -> Change:  # noqa: ANN401 - an array
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), name))

    return change


def _probed(change: Change, *, golden: bytes | None = None) -> Callable[[World], str]:
    """Run the probe's own code here, as its process would."""

    def drive(world: World) -> str:
        import contextlib
        import io

        model = toy.graph()
        change(model)
        folder = world.folder(world.members(model=toy.spelled(model), probe=golden))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            probe.main([str(folder)])
        answer = json.loads(out.getvalue())
        if answer["ok"]:
            return "the probe passes"
        raise ModelError(answer["what"], answer["remedy"])

    return drive


def _tried(change: Change, **limits: Any) -> Callable[[World], str]:  # noqa: ANN401 - see Limits
    def drive(world: World) -> str:
        model = toy.graph()
        change(model)
        path = world.pack(world.members(model=toy.spelled(model)))
        return world.install(path, probe=True, limits=Limits(**limits))

    return drive


def _nothing(_model: onnx.ModelProto) -> None:
    return


def _into(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Put nodes first, whose result ``extra`` is added to the features."""
    last = [node for node in model.graph.node if node.output[0] == "features"][0]
    last.output[0] = "small"
    add = helper.make_node("Add", ["small", "extra"], ["features"])
    at = list(model.graph.node).index(last) + 1
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept[:at], add, *kept[at:]])


def _huge(model: onnx.ModelProto) -> None:
    shape = numpy_helper.from_array(np.array([2**32], np.int64), "shape")
    model.graph.initializer.append(shape)
    _into(
        model,
        helper.make_node("ConstantOfShape", ["shape"], ["all"]),
        helper.make_node("ReduceSum", ["all"], ["extra"], keepdims=0),
    )


def _endless(model: onnx.ModelProto) -> None:
    values = {"trips": np.array(2**62, np.int64), "go": np.array(True), "zero": np.float32(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in values.items())
    boolean, real = TensorProto.BOOL, TensorProto.FLOAT
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["on_out"]),
            helper.make_node("Sin", ["carried"], ["carried_out"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("on", boolean, []), value("carried", real, [])],
        [value("on_out", boolean, []), value("carried_out", real, [])],
    )
    _into(model, helper.make_node("Loop", ["trips", "go", "zero"], ["extra"], body=body))


def _unknown(model: onnx.ModelProto) -> None:
    _into(model, helper.make_node("FormatDisk", ["factors"], ["extra"]))


def _cycle(model: onnx.ModelProto) -> None:
    _into(
        model,
        helper.make_node("Add", ["factors", "b"], ["a"]),
        helper.make_node("Add", ["factors", "a"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["extra"]),
    )


def _golden(**changes: object) -> bytes:
    return compact(json.loads(canonical(toy.golden())) | changes)


def _other_classes(model: onnx.ModelProto) -> None:
    _weights("gain", np.eye(3, 4) * 20)(model)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 4


def _one_member(model: onnx.ModelProto) -> None:
    """Give twice as many members as rows of factors."""
    softmax = [node for node in model.graph.node if node.output[0] == "members"][0]
    softmax.output[0] = "once"
    at = list(model.graph.node).index(softmax) + 1
    model.graph.node.insert(at, helper.make_node("Concat", ["once", "once"], ["members"], axis=0))


def _model(name: str, guard: str, drive: Callable[[World], str], says: str) -> Case:
    return Case(name, guard, drive, says, "ModelError")


_FAR = "external data by its location"
CASES = (
    _model(
        "weights outside, ../../etc/passwd",
        "external data by its entries",
        _graph(lambda m: m.graph.initializer.append(_outside())),
        _WORDS,
    ),
    _model(
        "weights outside, an absolute path",
        "external data by its entries",
        _graph(lambda m: m.graph.initializer.append(_outside("/etc/shadow"))),
        _WORDS,
    ),
    _model("entries of external data alone", "external data by its entries", _graph(_entries_only), _WORDS),
    _model("a location of external data alone", _FAR, _graph(_location_only), _WORDS),
    _model(
        "weights outside in a constant",
        "tensors of attributes",
        _graph(lambda m: m.graph.node.append(_constant(_outside()))),
        _WORDS,
    ),
    _model("weights outside in a branch", "graphs within graphs", _graph(_branch), _WORDS),
    _model("weights outside in a sparse tensor", "sparse tensors", _graph(_sparse), _WORDS),
    _model("weights outside in a function", "functions", _graph(_function), _WORDS),
    _model(
        "an operator that names files",
        "operators",
        _graph(_contrib),
        "the operator 'EPContext' of 'com.microsoft', not of ONNX",
    ),
    _model(
        "an operator that names files, in a branch",
        "graphs within graphs",
        _graph(_hidden_contrib),
        "the operator 'EPContext' of 'com.microsoft'",
    ),
    _model("another input", "names of a graph", _graph(_rename), "the model's inputs are"),
    _model("one more output", "names of a graph", _graph(_more_outputs), "the model's outputs are"),
    _model("training information", "training information", _graph(lambda m: m.training_info.add()), "training information"),
    _model(
        "no graph",
        "number of graphs",
        _graph(lambda m: m.ClearField("graph")),
        "model has 0 graphs, not one",
    ),
    _model(
        "two graphs",
        "number of graphs",
        _bytes(toy.spelled(toy.graph()) + b"\x3a\x00"),
        "model has 2 graphs, not one",
    ),
    _model("a hundred graphs in each other", "depth of a graph", _bytes(_nested(100)), "nested deeper than 100"),
    _model(
        "a field that nobody knows",
        "fields of a graph",
        _bytes(toy.spelled(toy.graph()) + b"\xf8\x06\x01"),
        "unknown field 111 in ModelProto",
    ),
    _model(
        "a group, which protobuf has given up",
        "wire types",
        _bytes(toy.spelled(toy.graph()) + b"\x0b\x0c"),
        "model is corrupt: wire type 3",
    ),
    _model(
        "a number where a message belongs",
        "wire of a field",
        _bytes(b"\x38\x01"),
        "model is corrupt: field 7 of ModelProto has wire 0",
    ),
    _model("cut off", "end of a field", _bytes(toy.spelled(toy.graph())[:-9]), "model is truncated"),
    _model("a number without an end", "end of a number", _bytes(b"\x08" + b"\xff" * 12), "within a number"),
    _model("noise", "fields of a graph", _bytes(bytes(range(1, 200))), "model (has|is)"),
    _model("more than 2 GB", "size of a graph", _too_large, "model has 2147483648 bytes, at most"),
    _model(
        "weights that are no numbers",
        "finite outputs of the probe",
        _probed(_weights("gain", np.full((3, 3), np.nan))),
        "an output of the model is not a finite number",
    ),
    _model(
        "weights that are no numbers, installed",
        "probe before it serves",
        _tried(_weights("gain", np.full((3, 3), np.nan))),
        "an output of the model is not a finite number",
    ),
    _model(
        "another network than was signed for",
        "tolerance of the probe",
        _probed(_weights("gain", np.eye(3) * -20)),
        "golden probe: fused probabilities differ",
    ),
    _model(
        "a probe with another number of classes",
        "classes of the probe",
        _probed(_nothing, golden=_golden(fused=[0.5, 0.5])),
        "has 2 probabilities for 3 classes",
    ),
    _model(
        "a graph with another number of classes",
        "classes of the graph",
        _probed(_other_classes),
        "the model has 4 classes, the manifest 3",
    ),
    _model(
        "a graph with more members than asked for",
        "members of the graph",
        _probed(_one_member),
        "the model fuses 8 members for 4 rows",
    ),
    _model(
        "a probe of 64 members by a number that is none",
        "form of the probe",
        _probed(_nothing, golden=_golden(members=10**30)),
        f"{GOLDEN} is not valid",
    ),
    _model("an operator that nobody has", "loading into the runtime", _probed(_unknown), "does not take the model"),
    _model("a cycle", "loading into the runtime", _probed(_cycle), "does not take the model"),
    _model(
        "a tensor of sixteen gigabytes",
        "probe before it serves",
        _tried(_huge),
        "the model does not run|needs more than|out of its memory limit|does not take",
    ),
    _model(
        "a loop without an end",
        "time of the probe",
        _tried(_endless, timeout_s=2.0),
        "the golden probe took longer than 2 s",
    ),
)
