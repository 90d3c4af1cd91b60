"""The plain network inside a bundle's graph: what an ensemble's cost is measured against.

Without the original model, the erosion is taken out of the ONNX graph: every multiplication by a
value that follows from the factors alone is removed. An eroded norm leaves ``(y - b) + b`` behind,
two additions more than the original network has; skips and activations leave nothing.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.base import INPUTS, OUTPUTS


def without_erosion(model_bytes: bytes, width: int) -> bytes:
    """Turn image, factors -> fused, members, variance into image -> members [B, C], one a base.

    Args:
        model_bytes: a bundle's graph.
        width: F, the number of factors.

    Raises:
        ModelError: no multiplication by factors was found.
    """
    model = onnx.load_from_string(model_bytes)
    graph = model.graph
    image, factors = INPUTS
    constant = {item.name for item in graph.initializer}
    erosion = {factors}
    for node in graph.node:
        known = all(name in erosion or name in constant for name in node.input if name)
        if known and any(name in erosion for name in node.input):
            erosion.update(node.output)
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        _rename(node, renamed)
        scaled = [name for name in node.input if name not in erosion]
        if node.op_type == "Mul" and len(scaled) == 1 and not set(node.output) & erosion:
            renamed[node.output[0]] = scaled[0]
        else:
            kept.append(node)
    if not renamed:
        raise ModelError("the bundle's graph multiplies nothing by factors", "give --model")
    graph.initializer.append(numpy_helper.from_array(np.ones((1, width), np.float32), factors))
    _keep(graph.input, {image})
    _keep(graph.output, {OUTPUTS[1]})
    needed = _needed(kept, {output.name for output in graph.output})
    del graph.node[:]
    graph.node.extend(needed)
    return _without_unused(model)


def _rename(node: NodeProto, renamed: dict[str, str]) -> None:
    for at, name in enumerate(node.input):
        if name in renamed:
            node.input[at] = renamed[name]


def _keep(values: "Iterable[onnx.ValueInfoProto]", names: set[str]) -> None:
    kept = [value for value in values if value.name in names]
    del values[:]  # type: ignore[attr-defined]
    values.extend(kept)  # type: ignore[attr-defined]


def _needed(nodes: list[NodeProto], wanted: set[str]) -> list[NodeProto]:
    """Nodes on which the wanted values depend, in order."""
    found = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted = wanted | set(node.input)
            found.append(node)
    return found[::-1]


def _without_unused(model: ModelProto) -> bytes:
    graph: GraphProto = model.graph
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]  # shapes were written for K members
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].Clear()
    return bytes(model.SerializeToString())
