"""Is an ONNX file what a device may load? Judged from its bytes, without the onnx package. Pure.

A walk over the protobuf encoding. Refused: external data anywhere (a path that the runtime would
follow), operators outside the ONNX standard (the same bundle has to run on every runtime; contrib
operators can also name files), fields that this version of the walk does not know, nesting too
deep, training information, anything truncated or malformed, other inputs and outputs than
``runtime.base`` names. Sizes of tensors are left to the probe, which runs with a memory limit.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.base import INPUTS, OUTPUTS

MAX_MODEL_BYTES = 2**31 - 1
MAX_DEPTH = 100
STANDARD_DOMAINS = frozenset({b"", b"ai.onnx"})

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10

SCHEMA: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {
        1: "int", 2: "bytes", 3: "bytes", 4: "bytes", 5: "int", 6: "bytes", 7: "GraphProto",
        8: "OperatorSetIdProto", 14: "StringStringEntryProto", 20: "TrainingInfoProto",
        25: "FunctionProto", 26: "DeviceConfigurationProto",
    },
    "GraphProto": {
        1: "NodeProto", 2: "bytes", 5: "TensorProto", 10: "bytes", 11: "ValueInfoProto",
        12: "ValueInfoProto", 13: "ValueInfoProto", 14: "TensorAnnotation",
        15: "SparseTensorProto", 16: "StringStringEntryProto",
    },
    "NodeProto": {
        1: "bytes", 2: "bytes", 3: "bytes", 4: "bytes", 5: "AttributeProto", 6: "bytes",
        7: "bytes", 8: "bytes", 9: "StringStringEntryProto", 10: "NodeDeviceConfigurationProto",
    },
    "FunctionProto": {
        1: "bytes", 4: "bytes", 5: "bytes", 6: "bytes", 7: "NodeProto", 8: "bytes",
        9: "OperatorSetIdProto", 10: "bytes", 11: "AttributeProto", 12: "ValueInfoProto",
        13: "bytes", 14: "StringStringEntryProto",
    },
    "AttributeProto": {
        1: "bytes", 2: "float", 3: "int", 4: "bytes", 5: "TensorProto", 6: "GraphProto",
        7: "floats", 8: "ints", 9: "bytes", 10: "TensorProto", 11: "GraphProto", 13: "bytes",
        14: "TypeProto", 15: "TypeProto", 20: "int", 21: "bytes", 22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "TensorProto": {
        1: "ints", 2: "int", 3: "Segment", 4: "floats", 5: "ints", 6: "bytes", 7: "ints",
        8: "bytes", 9: "bytes", 10: "doubles", 11: "ints", 12: "bytes",
        13: "StringStringEntryProto", 14: "int", 16: "StringStringEntryProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto", 3: "ints"},
    "ValueInfoProto": {1: "bytes", 2: "TypeProto", 3: "bytes", 4: "StringStringEntryProto"},
}  # fmt: skip
"""The messages that can hold a tensor, a node or a name; others are leaves and are skipped whole.

Field numbers and kinds are those of onnx.proto; a test compares them with the onnx package's own.
"""

_WIRES = {
    "int": {VARINT},
    "float": {FIXED32},
    "ints": {VARINT, BYTES},
    "floats": {FIXED32, BYTES},
    "doubles": {FIXED64, BYTES},
}
_REPLACE = "export the bundle again with a matching deepfusion-export"


class _Message(NamedTuple):
    """A message still to be walked: its type, its bytes and where it is."""

    kind: str
    data: memoryview
    depth: int


def check_onnx(model_bytes: bytes) -> None:
    """Return only if the model may be handed to a runtime; see the module's text for the rules.

    Raises:
        ModelError: the first rule that is broken.
    """
    if len(model_bytes) > MAX_MODEL_BYTES:
        raise ModelError(f"model has {len(model_bytes)} bytes, at most {MAX_MODEL_BYTES}", _REPLACE)
    found = _Findings()
    todo = [_Message("ModelProto", memoryview(model_bytes), 0)]
    while todo:
        message = todo.pop()
        for number, wire, value in _fields(message.data):
            kind = _kind_of(message.kind, number, wire)
            found.note(message, number, value)
            if kind in SCHEMA and isinstance(value, memoryview):
                if message.depth == MAX_DEPTH:
                    raise ModelError(f"model is nested deeper than {MAX_DEPTH} messages", _REPLACE)
                todo.append(_Message(kind, value, message.depth + 1))
    found.judge()


class _Findings:
    """What the walk has seen and can judge only at its end."""

    def __init__(self) -> None:
        self._graph_names: dict[str, list[bytes]] = {"inputs": [], "outputs": []}
        self._operators: set[tuple[bytes, ...]] = set()
        self._functions: set[tuple[bytes, ...]] = set()
        self._graphs = 0

    def note(self, message: _Message, number: int, value: int | memoryview) -> None:
        match message.kind, number:
            case "TensorProto", 13:
                raise ModelError("model keeps weights outside of its file", _REPLACE)
            case "TensorProto", 14 if value != 0:
                raise ModelError("model keeps weights outside of its file", _REPLACE)
            case "ModelProto", 20:
                raise ModelError("model holds training information", _REPLACE)
            case "ModelProto", 7:
                self._graphs += 1
        if isinstance(value, memoryview):
            self._note_names(message, number, value)

    def _note_names(self, message: _Message, number: int, value: memoryview) -> None:
        match message.kind, number:
            case "GraphProto", 11 if message.depth == 1:
                self._graph_names["inputs"] += _strings(value, 1)
            case "GraphProto", 12 if message.depth == 1:
                self._graph_names["outputs"] += _strings(value, 1)
            case ("GraphProto", 1) | ("FunctionProto", 7):
                self._operators.add(_strings(value, 7, 4))
            case "ModelProto", 25:
                self._functions.add(_strings(value, 10, 1))

    def judge(self) -> None:
        if self._graphs != 1:
            raise ModelError(f"model has {self._graphs} graphs, not one", _REPLACE)
        for domain, name in sorted(self._operators - self._functions):
            if domain not in STANDARD_DOMAINS:
                raise ModelError(
                    f"model uses the operator {_text(name)} of {_text(domain)}, not of ONNX",
                    _REPLACE,
                )
        for kind, wanted in (("inputs", INPUTS), ("outputs", OUTPUTS)):
            names = sorted(self._graph_names[kind])
            if names != sorted(name.encode() for name in wanted):
                raise ModelError(
                    f"the model's {kind} are {', '.join(map(_text, names))},"
                    f" not {', '.join(wanted)}",
                    _REPLACE,
                )


def _strings(data: memoryview, *numbers: int) -> tuple[bytes, ...]:
    """Return the values of some string fields; as in protobuf, the last one of each counts."""
    values = dict.fromkeys(numbers, b"")
    for number, _, value in _fields(data):
        if number in values and isinstance(value, memoryview):
            values[number] = bytes(value)
    return tuple(values[number] for number in numbers)


def _text(name: bytes) -> str:
    return ascii(name[:100].decode("utf-8", "replace"))


def _kind_of(message: str, number: int, wire: int) -> str:
    """Return the field's kind, after checking that field and wire type are known."""
    kind = SCHEMA[message].get(number)
    if kind is None:
        raise ModelError(f"model has an unknown field {number} in {message}", _REPLACE)
    if wire not in _WIRES.get(kind, {BYTES}):
        raise ModelError(f"model is corrupt: field {number} of {message} has wire {wire}", _REPLACE)
    return kind


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Split a message into (field number, wire type, value)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == VARINT:
            value, at = _varint(data, at)
        else:
            if wire == BYTES:
                size, at = _varint(data, at)
            elif wire in {FIXED32, FIXED64}:
                size = 4 if wire == FIXED32 else 8
            else:
                raise ModelError(f"model is corrupt: wire type {wire}", _REPLACE)
            if size > len(data) - at:
                raise ModelError("model is truncated", _REPLACE)
            value, at = data[at : at + size], at + size
        yield number, wire, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, at + index + 1
    raise ModelError("model is truncated or corrupt within a number", _REPLACE)
