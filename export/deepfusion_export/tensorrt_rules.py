"""What TensorRT's ONNX parser refuses, from its documents; nothing of TensorRT is needed here.

Sources: the operator table of onnx-tensorrt (``docs/operators.md`` of TensorRT 10.0 for opsets, of
10.15 for operators and their restrictions), its change log for what came after 10.3, and the ONNX
opset guide of TensorRT 11. INT64 is a type of its own since 9.0 and no objection any more.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deepfusion_export.onnx_walk import (
    constants_of,
    custom_nodes,
    external,
    is_standard,
    label,
    nodes_of,
    open_sizes,
    opset,
)


class Release(NamedTuple):
    """A TensorRT release to write for.

    Attributes:
        version: (major, minor).
        opsets: the lowest and the highest that its parser reads.
    """

    version: tuple[int, int]
    opsets: tuple[int, int]


RELEASES = {
    "TensorRT 10.3": Release((10, 3), (9, 20)),  # JetPack 6.2
    "TensorRT 11": Release((11, 0), (9, 25)),
}

SUPPORTED = {
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "Attention", "AveragePool", "BatchNormalization", "BlackmanWindow", "Cast", "CastLike",
    "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose",
    "Cos", "Cosh", "CumSum", "DeformConv", "DepthToSpace", "DequantizeLinear", "Div", "Dropout",
    "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "GRU",
    "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool",
    "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization",
    "HammingWindow", "HannWindow", "HardSigmoid", "HardSwish", "Hardmax", "Identity", "If",
    "ImageScaler", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Loop",
    "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean",
    "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "NonMaxSuppression",
    "NonZero", "Not", "OneHot", "Or", "PRelu", "Pad", "ParametricSoftplus", "Pow",
    "QuantizeLinear", "RMSNormalization", "RNN", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike", "Range", "Reciprocal", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence", "RoiAlign",
    "RotaryEmbedding", "Round", "STFT", "ScaledTanh", "Scan", "Scatter", "ScatterElements",
    "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice",
    "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum",
    "Tan", "Tanh", "TensorScatter", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu",
    "Unsqueeze", "Upsample", "Where", "Xor",
}  # fmt: skip
SINCE = {
    "BlackmanWindow": (10, 4), "HammingWindow": (10, 4), "HannWindow": (10, 4), "STFT": (10, 5),
    "Attention": (10, 14), "RMSNormalization": (10, 15), "RotaryEmbedding": (10, 15),
    "TensorScatter": (10, 15),
}  # fmt: skip
"""Operators that came with a later release than 10.3."""

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
CONTROL_FLOW = {"If", "Loop", "Scan"}
FIRST_OUTPUT_ONLY = {"MaxPool", "LayerNormalization"}
CONSTANT_INPUT = {
    "ReduceL1": 1, "ReduceL2": 1, "ReduceLogSum": 1, "ReduceLogSumExp": 1, "ReduceMax": 1,
    "ReduceMean": 1, "ReduceMin": 1, "ReduceProd": 1, "ReduceSum": 1, "ReduceSumSquare": 1,
    "Squeeze": 1, "Unsqueeze": 1, "CumSum": 1, "OneHot": 1,
}  # fmt: skip
"""Operator -> position of the input that must be known when the engine is built."""
ZERO_POINT = {"QuantizeLinear", "DequantizeLinear"}
ALLOWED: dict[str, dict[str, tuple[object, ...]]] = {
    "Resize": {
        "mode": ("nearest", "linear"),
        "coordinate_transformation_mode": (
            *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn"),
            *("asymmetric", "align_corners"),
        ),
        "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
        "keep_aspect_ratio_policy": ("stretch",),
        "antialias": (0,),
    },
    "ScatterND": {"reduction": ("none",)},
    "TopK": {"sorted": (1,)},
    "LSTM": {"layout": (0,), "input_forget": (0,)},
    "AveragePool": {"dilations": (1,)},
    "MaxPool": {"dilations": (1,)},
    "LpPool": {"dilations": (1,)},
}
"""Operator -> attribute -> values that are taken; of a list, each must be one of them."""
TYPES = {
    TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16,
    TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL,
    TensorProto.FLOAT8E4M3FN, TensorProto.INT4,
}  # fmt: skip


class Objection(NamedTuple):
    """Why a node is refused, or what goes wrong with it, and what to do."""

    refused: bool
    what: str
    remedy: str


_OTHER_LAYERS = "use layers that do without it"


def of_model(model: ModelProto, release: Release) -> Iterator[tuple[str, Objection]]:
    """All objections to a model, each with the place it is about, "" for the whole file."""
    version = opset(model)
    low, high = release.opsets
    if not low <= version <= high:
        remedy = f"export it with opset {min(max(version, low), high)}"
        yield "", Objection(True, f"opset {version} is outside of {low} to {high}", remedy)
    for place in open_sizes(model):
        what = "a size other than K is left open, the profile is over K alone"
        yield place, Objection(True, what, "export it with a fixed image size")
    constants = constants_of(model)
    for name, tensor in constants.items():
        for objection in _of_tensor(tensor):
            yield f"tensor '{name}'", objection
    for node in custom_nodes(model):
        what = f"the domain '{node.domain}' needs a plugin"
        yield label(node), Objection(True, what, "use operators of the ONNX standard")
    for node in filter(is_standard, nodes_of(model)):
        for objection in _of_node(node, release, constants):
            yield label(node), objection


def _of_tensor(tensor: TensorProto) -> Iterator[Objection]:
    known = tensor.data_type in TensorProto.DataType.values()
    name = TensorProto.DataType.Name(tensor.data_type) if known else str(tensor.data_type)
    if tensor.data_type not in TYPES:
        yield Objection(True, f"weights of type {name}", "store them as FLOAT, INT32 or INT64")
    elif tensor.data_type == TensorProto.DOUBLE:
        what = "weights of type DOUBLE are cast down to FLOAT"
        yield Objection(False, what, "store them as FLOAT")


def _of_node(
    node: NodeProto, release: Release, constants: dict[str, TensorProto]
) -> Iterator[Objection]:
    kind = node.op_type
    if kind not in SUPPORTED:
        yield Objection(True, f"the operator {kind} is not supported", _OTHER_LAYERS)
        return
    since = SINCE.get(kind, (0, 0))
    if release.version < since:
        what = f"the operator {kind} is known from TensorRT {since[0]}.{since[1]} on"
        yield Objection(True, what, "export it with a lower opset, as plain operators")
    if kind in RANDOM:
        remedy = "make randomness an input, as the factors are"
        yield Objection(False, f"{kind} ignores its seed", remedy)
    if kind in CONTROL_FLOW:
        remedy = "export the network without branches and loops on data"
        yield Objection(False, "control flow builds under conditions only", remedy)
    if kind in FIRST_OUTPUT_ONLY and any(node.output[1:]):
        yield Objection(True, f"only the first output of {kind} is supported", _OTHER_LAYERS)
    yield from _of_inputs(node, constants)
    yield from _of_attributes(node)


def _of_inputs(node: NodeProto, constants: dict[str, TensorProto]) -> Iterator[Objection]:
    kind = node.op_type
    place = CONSTANT_INPUT.get(kind)
    if place is not None and len(node.input) > place:
        name = node.input[place]
        if name and name not in constants:
            yield Objection(
                True, f"input {place + 1} of {kind} is computed", "make it a constant of the graph"
            )
    if kind in ZERO_POINT and len(node.input) > 2:  # noqa: PLR2004 - value, scale, zero point
        zero = constants.get(node.input[2])
        if zero is not None and _not_zero(zero):
            yield Objection(True, f"{kind} has a zero point", "quantise symmetrically")
    if kind == "Dropout" and len(node.input) > 2 and node.input[2]:  # noqa: PLR2004
        training = constants.get(node.input[2])
        if training is None or _not_zero(training):
            yield Objection(True, "Dropout in training mode", "export the model in eval mode")


def _of_attributes(node: NodeProto) -> Iterator[Objection]:
    allowed = ALLOWED.get(node.op_type, {})
    for attribute in node.attribute:
        values = allowed.get(attribute.name)
        if values is None:
            continue
        found = _plain(attribute)
        if any(value not in values for value in found):
            wanted = " or ".join(map(str, values))
            text = f"{attribute.name} of {node.op_type} is {', '.join(map(str, found))}"
            yield Objection(True, f"{text}, not {wanted}", _OTHER_LAYERS)


def _not_zero(tensor: TensorProto) -> bool:
    """Whether a constant holds anything but zeros; False where that cannot be read."""
    try:
        return not external(tensor) and bool(numpy_helper.to_array(tensor).any())
    except (KeyError, TypeError, ValueError):
        return False


def _plain(attribute: AttributeProto) -> list[object]:
    try:
        value = helper.get_attribute_value(attribute)
    except ValueError:  # an attribute of no known type: ONNX Runtime says so
        return []
    values = value if isinstance(value, Sequence) and not isinstance(value, bytes) else [value]
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
