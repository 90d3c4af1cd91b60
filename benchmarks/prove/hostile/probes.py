"""Graphs that are well formed and fail when they are loaded or run: what the probe is for."""

import contextlib
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.prove.hostile import toy
from benchmarks.prove.hostile.case import model
from benchmarks.prove.hostile.world import World, compact
from deepfusion_edge import probe
from deepfusion_edge.bundle.manifest import GOLDEN, canonical
from deepfusion_edge.bundle.trial import Limits
from deepfusion_edge.errors import ModelError

Change = Callable[[onnx.ModelProto], object]


def _weights(name: str, values: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), name))

    return change


def _probed(change: Change, *, golden: bytes | None = None) -> Callable[[World], str]:
    """Run the probe's own code here, as its process would."""

    def drive(world: World) -> str:
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


def _tried(change: Change, **limits: Any) -> Callable[[World], str]:
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
    last = next(node for node in model.graph.node if node.output[0] == "features")
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
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), n) for n, v in values.items()
    )
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
    softmax = next(node for node in model.graph.node if node.output[0] == "members")
    softmax.output[0] = "once"
    at = list(model.graph.node).index(softmax) + 1
    model.graph.node.insert(at, helper.make_node("Concat", ["once", "once"], ["members"], axis=0))


def model_of_nan() -> bytes:
    """Make a graph whose outputs are no numbers."""
    model = toy.graph()
    _weights("gain", np.full((3, 3), np.nan))(model)
    return toy.spelled(model)


CASES = (
    model(
        "weights that are no numbers",
        "finite outputs of the probe",
        _probed(_weights("gain", np.full((3, 3), np.nan))),
        "an output of the model is not a finite number",
    ),
    model(
        "weights that are no numbers, installed",
        "probe before it serves",
        _tried(_weights("gain", np.full((3, 3), np.nan))),
        "an output of the model is not a finite number",
    ),
    model(
        "another network than was signed for",
        "tolerance of the probe",
        _probed(_weights("gain", np.eye(3) * -20)),
        "golden probe: fused probabilities differ",
    ),
    model(
        "a probe with another number of classes",
        "classes of the probe",
        _probed(_nothing, golden=_golden(fused=[0.5, 0.5])),
        "has 2 probabilities for 3 classes",
    ),
    model(
        "a graph with another number of classes",
        "classes of the graph",
        _probed(_other_classes),
        "the model has 4 classes, the manifest 3",
    ),
    model(
        "a graph with more members than asked for",
        "members of the graph",
        _probed(_one_member),
        "the model fuses 8 members for 4 rows",
    ),
    model(
        "a probe of 64 members by a number that is none",
        "form of the probe",
        _probed(_nothing, golden=_golden(members=10**30)),
        f"{GOLDEN} is not valid",
    ),
    model(
        "an operator that nobody has",
        "loading into the runtime",
        _probed(_unknown),
        "does not take the model",
    ),
    model("a cycle", "loading into the runtime", _probed(_cycle), "does not take the model"),
    model(
        "a tensor of sixteen gigabytes",
        "probe before it serves",
        _tried(_huge),
        "the model does not run|needs more than|out of its memory limit|does not take",
    ),
    model(
        "a loop without an end",
        "time of the probe",
        _tried(_endless, timeout_s=2.0),
        "the golden probe took longer than 2 s",
    ),
)
