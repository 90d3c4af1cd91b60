"""The networks inside a graph in FP16 or INT8; images before and scores behind them stay FP32.

A graph is cut before the networks' first layers (the stages of preprocessing round to whole pixel
values) and behind the networks: at the last softmax above ``members``, and at the features that the
variance is computed from. What lies between is converted, the rest is left as it is.

``fp16``  onnxruntime's converter; softmaxes, means and norms within a network stay FP32 too
``int8``  onnxruntime's static quantisation: convolutions and matrix products between Q and DQ,
          symmetric, weights per channel, biases FP32, ranges from images with drawn factors; the
          first layer of a network stays FP32, because its rounding is in all that follows

Inputs and outputs are float32 in all precisions, so a bundle runs on every runtime.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from deepfusion_edge.errors import DeepFusionError, ModelError
from deepfusion_edge.runtime.base import INPUTS, OUTPUTS

Feed = dict[str, npt.NDArray[np.float32]]

SENSITIVE = (
    *("Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "GlobalAveragePool"),
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization"),
)
"""Sums over many values, whose rounding adds up: FP32 within an FP16 network too."""
QUANTISED = ("Conv", "MatMul", "Gemm")
STAGE_WEIGHTS = 64
"""The largest matrix of a stage that stands on the right is JPEG's 8 x 8; layers have more weights.

Matrices that resize stand on the left, where no layer has its weights.
"""


def to_fp16(graph: bytes) -> bytes:
    """Convert the networks of an exported graph to FP16.

    Raises:
        ModelError: the converter does not take the graph.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    def convert(network: ModelProto) -> ModelProto:
        blocked = [*DEFAULT_OP_BLOCK_LIST, *SENSITIVE]
        half: ModelProto = convert_float_to_float16(
            network, keep_io_types=True, op_block_list=blocked
        )
        return half

    return _converted(graph, "FP16", lambda model: _joined(model, convert))


def to_int8(graph: bytes, feeds: Iterable[Feed]) -> bytes:
    """Quantise the networks of an exported graph.

    Args:
        graph: from ``onnx.to_onnx``.
        feeds: images and factors whose activations set the ranges, see ``calibration``.

    Raises:
        ModelError: the quantiser does not take the graph.
    """

    def quantise(model: ModelProto) -> ModelProto:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
        from onnxruntime.quantization.quant_utils import QuantType, add_pre_process_metadata

        class Reader(CalibrationDataReader):  # type: ignore[misc] # no type information
            def __init__(self) -> None:
                self._feeds = iter(feeds)

            def get_next(self) -> Feed | None:
                return next(self._feeds, None)

        _, rest = cut(model.graph)
        kept = [*rest, *_first_layers(model.graph)[1]]
        add_pre_process_metadata(model)  # shapes are inferred: it need not advise to do so
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "quantised.onnx")
            quantize_static(
                model,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[node.name for node in kept],
                # TensorRT takes symmetric ranges only, and no quantised biases.
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                },
            )
            return onnx.load(path)

    return _converted(graph, "INT8", quantise)


def cut(graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """Split the nodes of an exported graph into the networks' and all others, in their order.

    Raises:
        ModelError: no softmax leads to ``members``, or no layer to it: it is no graph of
            ``onnx.to_onnx``.
    """
    makers = {output: node for node in graph.node for output in node.output}
    logits, todo = [], [OUTPUTS[1]]
    while todo:
        node = makers.get(todo.pop())
        if node is not None and node.op_type == "Softmax":
            logits += node.input
        elif node is not None:
            todo += node.input
    if not logits:
        raise ModelError("the graph has no softmax before its members", "export the bundle again")
    above: set[str] = set()
    while logits:
        name = logits.pop()
        if name in makers and name not in above:
            above |= set(makers[name].output)
            logits += makers[name].input
    above -= _first_layers(graph)[0]
    network = [node for node in graph.node if node.output[0] in above]
    if not any(node.op_type in QUANTISED for node in network):
        raise ModelError("the graph has no layer to convert", "use --precision fp32")
    return network, [node for node in graph.node if node.output[0] not in above]


def _first_layers(graph: GraphProto) -> tuple[set[str], list[NodeProto]]:
    """Find what is computed of the image before the networks, and their first layers."""
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    before, layers = {INPUTS[0]}, []
    for node in graph.node:
        if before.isdisjoint(node.input):
            continue
        right = node.input if node.op_type != "MatMul" else node.input[1:]
        largest = max((weights.get(name, 0) for name in right), default=0)
        if node.op_type in QUANTISED and largest > STAGE_WEIGHTS:
            layers.append(node)
        elif before.issuperset(name for name in node.input if name and name not in weights):
            before |= set(node.output)
    return before - {INPUTS[0]}, layers


def _converted(graph: bytes, name: str, convert: Callable[[ModelProto], ModelProto]) -> bytes:
    from onnxruntime.transformers.onnx_model import OnnxModel

    logger = logging.getLogger("onnxruntime")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph))
        before = _ends(model)
        made = OnnxModel(convert(model))
        made.topological_sort()
        found: ModelProto = made.model
        del found.graph.value_info[:]  # of the old precision
        del found.metadata_props[:]
        used = {node.domain for node in found.graph.node}
        standard = [opset for opset in found.opset_import if opset.domain in used]
        del found.opset_import[:]
        found.opset_import.extend(standard)
        found.producer_name, found.producer_version = "deepfusion-export", ""
        onnx.checker.check_model(found, full_check=True)
        _require_ends(found, before, name)
        return bytes(found.SerializeToString(deterministic=True))
    except DeepFusionError:
        raise
    except Exception as error:  # protobuf's, onnx's and onnxruntime's share no base class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the model cannot be converted to {name} ({first[:300]})", "use --precision fp32"
        ) from error
    finally:
        logger.setLevel(level)


def _ends(model: ModelProto) -> list[tuple[str, int]]:
    values = (*model.graph.input, *model.graph.output)
    return [(value.name, value.type.tensor_type.elem_type) for value in values]


def _require_ends(model: ModelProto, before: list[tuple[str, int]], name: str) -> None:
    if _ends(model) != before:
        raise ModelError(f"{name} changed the graph's inputs or outputs", "use --precision fp32")


def _joined(model: ModelProto, convert: Callable[[ModelProto], ModelProto]) -> ModelProto:
    """Convert the networks alone and put the rest around them again."""
    network, rest = cut(model.graph)
    made = {output for node in network for output in node.output}
    wanted = {name for node in rest for name in node.input} | {v.name for v in model.graph.output}
    around = {output for node in rest for output in node.output} | set(INPUTS)
    begins = sorted({name for node in network for name in node.input} & around)
    converted = convert(onnx.utils.Extractor(model).extract_model(begins, sorted(made & wanted)))
    graph = converted.graph
    nodes = list(_once(graph.node))
    del graph.node[:]
    graph.node.extend(nodes)
    taken = {tensor.name for tensor in graph.initializer}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    used = {name for node in rest for name in node.input if name in constants}
    # A constant that both halves use may be FP16 in one of them.
    names = {name: f"{name}_fp32" if name in taken else name for name in sorted(used)}
    for old, new in names.items():
        tensor = graph.initializer.add()
        tensor.CopyFrom(constants[old])
        tensor.name = new
    for node in rest:
        added = graph.node.add()
        added.CopyFrom(node)
        added.input[:] = [names.get(name, name) for name in node.input]
    del graph.input[:]
    graph.input.extend(model.graph.input)
    del graph.output[:]
    graph.output.extend(model.graph.output)
    return converted


def _once(nodes: Iterable[Any]) -> Iterator[Any]:
    """Leave out the casts that the converter makes again for every reader of a value."""
    made: set[str] = set()
    for node in nodes:
        if node.op_type != "Cast" or node.output[0] not in made:
            yield node
        made |= set(node.output)
