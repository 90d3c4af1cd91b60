"""The part of protobuf's wire format that Sparkplug B needs. Pure.

Source: https://protobuf.dev/programming-guides/encoding/
"""

import functools
import struct
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_FIELD = 2**29 - 1
_MORE = 0x80  # another byte follows, with the next seven bits
_VARINT_BITS = 70
_SHORT = tuple(bytes([value]) for value in range(_MORE))
_WIDTH = {FIXED64: 8, FIXED32: 4}


class WireError(ValueError):
    """Bytes that are no message, or break a limit."""


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: as the schema numbers it.
        wire: VARINT, FIXED64, BYTES or FIXED32.
        value: an int for VARINT, else the bytes.
    """

    number: int
    wire: int
    value: int | bytes


def varint(value: int) -> bytes:
    """Spell a number of at most 64 bits."""
    if 0 <= value < _MORE:
        return _SHORT[value]
    if not 0 <= value < 2**64:
        raise WireError(f"{value} is no unsigned number of 64 bits")
    out = bytearray()
    while value >= _MORE:
        out.append(value % _MORE | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)


@functools.lru_cache(maxsize=1024)  # of one event's metrics all have the same time
def put_number(number: int, value: int) -> bytes:
    """Spell a varint field."""
    return varint(number << 3 | VARINT) + varint(value)


def put_bytes(number: int, value: bytes) -> bytes:
    """Spell a field of bytes, a text or a message."""
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def put_float(number: int, value: float) -> bytes:
    """Spell a float field of 32 bits."""
    return varint(number << 3 | FIXED32) + struct.pack("<f", value)


def put_double(number: int, value: float) -> bytes:
    """Spell a float field of 64 bits."""
    return varint(number << 3 | FIXED64) + struct.pack("<d", value)


def fields(data: bytes) -> Iterator[Field]:
    """Take a message apart.

    Raises:
        WireError: it is cut off, has a field 0, a group, or a number of more than 64 bits.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD:
            raise WireError(f"field number {number}")
        if wire == VARINT:
            value, at = _varint(data, at)
            yield Field(number, wire, value)
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in _WIDTH:
            size = _WIDTH[wire]
        else:
            raise WireError(f"wire type {wire}")
        if size > len(data) - at:
            raise WireError(f"field {number} is cut off")
        yield Field(number, wire, data[at : at + size])
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < _VARINT_BITS:
        if at >= len(data):
            raise WireError("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte % _MORE) << shift
        if byte < _MORE:
            if value >= 2**64:
                break
            return value, at
        shift += 7
    raise WireError("a number has more than 64 bits")
