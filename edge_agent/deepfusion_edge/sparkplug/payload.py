"""Sparkplug B's payload: a dozen fields of its proto2 schema, spelled and read. Pure.

Schema: https://github.com/eclipse/tahu, ``sparkplug_b.proto``. Data sets, templates, properties and
metadata are not used here: skipped when read.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from deepfusion_edge.sparkplug.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Field,
    WireError,
    fields,
    put_bytes,
    put_double,
    put_float,
    put_number,
)

MAX_BYTES = 2**20
MAX_METRICS = 5000


class DataType(IntEnum):
    """The types we declare."""

    INT32 = 3
    INT64 = 4
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12


class Kind(IntEnum):
    """Which field of the schema holds a value; its number."""

    INT = 10
    LONG = 11
    FLOAT = 12
    DOUBLE = 13
    BOOLEAN = 14
    STRING = 15


class Value(NamedTuple):
    """A value as it is on the wire: integers unsigned, of 32 or 64 bits."""

    kind: Kind
    content: int | float | bool | str


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name, alias: births give both, data the alias only.
        timestamp_ms: since 1970, UTC.
        datatype: its number; in births only.
        value: None is null, and is said so.
        historical: stored while nobody could receive it.
    """

    name: str | None = None
    alias: int | None = None
    timestamp_ms: int | None = None
    datatype: int | None = None
    value: Value | None = None
    historical: bool = False


class Payload(NamedTuple):
    """One message.

    Attributes:
        timestamp_ms: when it was sent, since 1970, UTC.
        seq: 0 to 255; None in an NDEATH.
    """

    timestamp_ms: int | None
    metrics: tuple[Metric, ...]
    seq: int | None = None


_KINDS = {
    DataType.INT32: Kind.INT,
    DataType.INT64: Kind.LONG,
    DataType.UINT64: Kind.LONG,
    DataType.FLOAT: Kind.FLOAT,
    DataType.DOUBLE: Kind.DOUBLE,
    DataType.BOOLEAN: Kind.BOOLEAN,
    DataType.STRING: Kind.STRING,
}
_WIRES = {
    Kind.INT: VARINT,
    Kind.LONG: VARINT,
    Kind.FLOAT: FIXED32,
    Kind.DOUBLE: FIXED64,
    Kind.BOOLEAN: VARINT,
    Kind.STRING: BYTES,
}


def value_of(datatype: DataType, content: float | str) -> Value:
    """Put a value into the field that its type belongs to; negative integers as two's complement.

    Raises:
        WireError: it does not fit.
    """
    kind = _KINDS[datatype]
    if kind in {Kind.INT, Kind.LONG}:
        bits = 32 if kind is Kind.INT else 64
        number = int(content)
        low = 0 if datatype is DataType.UINT64 else -(2 ** (bits - 1))
        if not low <= number < low + 2**bits:
            raise WireError(f"{number} is no {datatype.name}")
        return Value(kind, number % 2**bits)
    if kind is Kind.BOOLEAN:
        return Value(kind, bool(content))
    return Value(kind, content if kind is Kind.STRING else float(content))


def encode(payload: Payload) -> bytes:
    """Spell a payload.

    Raises:
        WireError: a number is out of range.
    """
    out = b"" if payload.timestamp_ms is None else put_number(1, payload.timestamp_ms)
    out += b"".join(put_bytes(2, _encode_metric(metric)) for metric in payload.metrics)
    return out if payload.seq is None else out + put_number(3, payload.seq)


def decode(data: bytes) -> Payload:
    """Read a payload; fields that are not ours are skipped, the last of a repeated one counts.

    Raises:
        WireError: too large, too many metrics, cut off, or no UTF-8.
    """
    if len(data) > MAX_BYTES:
        raise WireError(f"payload has {len(data)} bytes, at most {MAX_BYTES} are read")
    timestamp: int | None = None
    seq: int | None = None
    metrics: list[Metric] = []
    for field in fields(data):
        if field.number == 1:
            timestamp = _number(field)
        elif field.number == 2:  # noqa: PLR2004 - the schema's numbers
            if len(metrics) == MAX_METRICS:
                raise WireError(f"more than {MAX_METRICS} metrics")
            metrics.append(_decode_metric(_bytes(field)))
        elif field.number == 3:  # noqa: PLR2004
            seq = _number(field)
    return Payload(timestamp, tuple(metrics), seq)


def _encode_metric(metric: Metric) -> bytes:
    out = [] if metric.name is None else [put_bytes(1, metric.name.encode())]
    for number, value in ((2, metric.alias), (3, metric.timestamp_ms), (4, metric.datatype)):
        if value is not None:
            out.append(put_number(number, value))
    if metric.historical:
        out.append(put_number(5, 1))
    out.append(put_number(7, 1) if metric.value is None else _encode_value(*metric.value))
    return b"".join(out)


def _encode_value(kind: Kind, content: float | str) -> bytes:
    if isinstance(content, str):
        return put_bytes(kind, content.encode())
    if kind is Kind.DOUBLE:
        return put_double(kind, content)
    if kind is Kind.FLOAT:
        return put_float(kind, content)
    return put_number(kind, int(content))


def _decode_metric(data: bytes) -> Metric:
    found: dict[int, Field] = {}
    value: Value | None = None
    for field in fields(data):
        found[field.number] = field
        if field.number in _WIRES:  # a oneof: the last one counts
            value = _decode_value(Kind(field.number), field)
    number = {n: _number(found[n]) for n in (2, 3, 4, 5, 7) if n in found}
    return Metric(
        name=_text(found[1]) if 1 in found else None,
        alias=number.get(2),
        timestamp_ms=number.get(3),
        datatype=number.get(4),
        value=None if number.get(7) else value,
        historical=bool(number.get(5)),
    )


def _decode_value(kind: Kind, field: Field) -> Value:
    if field.wire != _WIRES[kind]:
        raise WireError(f"{kind.name} has wire type {field.wire}")
    if kind is Kind.STRING:
        return Value(kind, _text(field))
    if kind is Kind.FLOAT:
        return Value(kind, struct.unpack("<f", _bytes(field))[0])
    if kind is Kind.DOUBLE:
        return Value(kind, struct.unpack("<d", _bytes(field))[0])
    number = _number(field)
    if kind is Kind.INT and number >= 2**32:
        number %= 2**32  # as protobuf truncates
    return Value(kind, bool(number) if kind is Kind.BOOLEAN else number)


def _number(field: Field) -> int:
    if not isinstance(field.value, int):
        raise WireError(f"field {field.number} is no number")
    return field.value


def _bytes(field: Field) -> bytes:
    if not isinstance(field.value, bytes):
        raise WireError(f"field {field.number} is a number")
    return field.value


def _text(field: Field) -> str:
    try:
        return _bytes(field).decode()
    except UnicodeDecodeError as error:
        raise WireError(f"field {field.number} is not UTF-8") from error
