"""What can be read off an ONNX model, subgraphs included."""

from collections.abc import Iterator

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from deepfusion_edge.bundle.onnx_check import STANDARD_DOMAINS
from deepfusion_edge.errors import InputError
from deepfusion_edge.runtime.base import INPUTS


def parsed(data: bytes, name: str) -> ModelProto:
    """Parse a model from its bytes; data in other files is not read.

    Raises:
        InputError: the bytes are no ONNX model, or one without a node.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own kinds, which differ between its versions
        raise InputError(
            f"{name} is no ONNX file ({error})", "give a whole file that an exporter wrote"
        ) from error
    if not model.ir_version or not model.graph.node:
        raise InputError(f"{name} is no ONNX file, or one without a node", "give a whole file")
    if not all(isinstance(text, str) for text in _names(model)):  # protobuf leaves it as bytes
        raise InputError(f"{name} holds a name that is no text", "export it again")
    return model


def _names(model: ModelProto) -> Iterator[str]:
    graph = model.graph
    yield from (item.name for item in (*graph.input, *graph.output, *graph.initializer))
    yield from (text for f in model.functions for text in (f.domain, f.name))
    yield from (item.domain for item in model.opset_import)
    for node in nodes_of(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes, those of subgraphs and of the model's own functions included."""
    todo = [*model.graph.node, *(node for f in model.functions for node in f.node)]
    while todo:
        node = todo.pop(0)
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                todo += inner.node


def is_standard(node: NodeProto) -> bool:
    """Whether its operator is one of the ONNX standard, by its domain."""
    return node.domain.encode() in STANDARD_DOMAINS


def custom_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Nodes that are neither of the ONNX standard nor functions of the model itself."""
    own = {(f.domain, f.name) for f in model.functions}
    for node in nodes_of(model):
        if not is_standard(node) and (node.domain, node.op_type) not in own:
            yield node


def opset(model: ModelProto) -> int:
    """The version of the standard operators."""
    return max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=1)


def label(node: NodeProto) -> str:
    """What messages call a node."""
    return f"node '{node.name or ', '.join(node.output)}' ({node.op_type})"


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    """Initializers and results of Constant nodes, by name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes_of(model):
        if node.op_type == "Constant":
            found.update({node.output[0]: a.t for a in node.attribute if a.name == "value"})  # noqa: B035 - one value each
    return found


def external(tensor: TensorProto) -> bool:
    """Whether its data is in another file."""
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def external_tensors(model: ModelProto) -> list[TensorProto]:
    """Tensors whose data is in another file."""
    tensors = [*model.graph.initializer]
    tensors += [a.t for n in nodes_of(model) for a in n.attribute if a.HasField("t")]
    return [tensor for tensor in tensors if external(tensor)]


def input_names(model: ModelProto) -> list[str]:
    """Names of the inputs that a user feeds, sorted: old exporters list weights among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return sorted(value.name for value in model.graph.input if value.name not in weights)


def open_sizes(model: ModelProto) -> Iterator[str]:
    """Inputs with a size that is not fixed; K, the first one of the factors, may be open."""
    names = input_names(model)
    for value in model.graph.input:
        sizes = value.type.tensor_type.shape.dim
        fixed = [d.WhichOneof("value") == "dim_value" for d in sizes]
        if value.name in names and not all(fixed[value.name == INPUTS[1] :]):
            shape = ", ".join(str(d.dim_value or d.dim_param or "?") for d in sizes)
            yield f"input '{value.name}' [{shape}]"
