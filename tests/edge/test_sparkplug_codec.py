"""Sparkplug's bytes: against vectors by hand, back and forth, and from an enemy."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfusion_edge.sparkplug.payload import (
    MAX_BYTES,
    MAX_METRICS,
    DataType,
    Kind,
    Metric,
    Payload,
    Value,
    decode,
    encode,
    value_of,
)
from deepfusion_edge.sparkplug.wire import WireError, fields, put_bytes, put_number, varint

pytestmark = pytest.mark.processor

U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.one_of(
    st.builds(Value, st.just(Kind.INT), st.integers(0, 2**32 - 1)),
    st.builds(Value, st.just(Kind.LONG), U64),
    st.builds(Value, st.just(Kind.FLOAT), st.floats(width=32, allow_nan=False)),
    st.builds(Value, st.just(Kind.DOUBLE), st.floats(allow_nan=False)),
    st.builds(Value, st.just(Kind.BOOLEAN), st.booleans()),
    st.builds(Value, st.just(Kind.STRING), TEXT),
)
METRICS = st.builds(
    Metric,
    st.none() | TEXT,
    st.none() | U64,
    st.none() | U64,
    st.none() | st.integers(0, 34),
    st.none() | VALUES,
    st.booleans(),
)
PAYLOADS = st.builds(
    Payload, st.none() | U64, st.lists(METRICS, max_size=5).map(tuple), st.none() | U64
)


def test_a_payload_spelled_by_hand():
    """Every byte by the protobuf encoding rules and the field numbers of sparkplug_b.proto."""
    payload = Payload(
        timestamp_ms=300,
        metrics=(
            Metric("a", 1, 2, DataType.BOOLEAN, Value(Kind.BOOLEAN, content=True)),
            Metric(None, 1, None, None, Value(Kind.DOUBLE, 1.0), historical=True),
            Metric(alias=3),
        ),
        seq=255,
    )
    first = b"\x0a\x01a\x10\x01\x18\x02\x20\x0b\x70\x01"
    second = b"\x10\x01\x28\x01\x69" + struct.pack("<d", 1)
    third = b"\x10\x03\x38\x01"
    by_hand = b"\x08\xac\x02"
    for metric in (first, second, third):
        by_hand += b"\x12" + bytes([len(metric)]) + metric
    by_hand += b"\x18\xff\x01"
    assert encode(payload) == by_hand
    assert decode(by_hand) == payload


@given(PAYLOADS)
def test_what_is_spelled_is_read(payload):
    assert decode(encode(payload)) == payload


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1))
def test_negative_integers_are_twos_complement(small, large):
    value = value_of(DataType.INT32, small)
    assert struct.unpack("<i", struct.pack("<I", value.content))[0] == small
    value = value_of(DataType.INT64, large)
    assert struct.unpack("<q", struct.pack("<Q", value.content))[0] == large


@pytest.mark.parametrize(
    ("datatype", "content"),
    [(DataType.INT32, 2**31), (DataType.INT64, -(2**63) - 1), (DataType.UINT64, -1)],
)
def test_a_number_that_does_not_fit_is_refused(datatype, content):
    with pytest.raises(WireError):
        value_of(datatype, content)
    with pytest.raises(WireError):
        varint(-1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # a number without digits
        b"\x08" + b"\xff" * 9 + b"\x02",  # 65 bits
        b"\x08" + b"\x80" * 11,  # never ends
        b"\x00\x01",  # field 0
        b"\x0b\x0c",  # a group
        b"\x12\x05abc",  # longer than what is there
        b"\x12" + varint(2**63),  # a length nobody has
        b"\x09\x01",  # 64 bits cut off
        b"\x0a\x01a",  # the timestamp as text
        put_number(2, 7),  # metrics as a number
        put_bytes(2, put_bytes(1, b"\xff")),  # a name that is not UTF-8
        put_bytes(2, put_bytes(15, b"\xff")),
        put_bytes(2, put_number(15, 1)),  # a text as a number
        put_bytes(2, put_bytes(14, b"x")),  # a truth as text
        put_bytes(2, put_number(13, 1)),
        b"\x12\x00" * (MAX_METRICS + 1),
        b"\x00" * (MAX_BYTES + 1),
    ],
)
def test_hostile_bytes_are_refused(data):
    with pytest.raises(WireError):
        decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_payload_or_refused(data):
    try:
        payload = decode(data)
    except WireError:
        return
    assert len(payload.metrics) <= len(data)


@given(PAYLOADS, st.data())
def test_a_changed_byte_is_read_or_refused(payload, data):
    body = bytearray(encode(payload))
    if body:
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(body))
    except WireError:
        return


def test_what_we_do_not_know_is_skipped_and_the_last_one_counts():
    metric = put_bytes(8, b"metadata") + put_bytes(9, b"properties") + put_bytes(17, b"data set")
    metric += put_number(10, 5) + put_number(14, 1) + put_number(10, 2**32 + 6)
    data = put_bytes(4, b"uuid") + put_bytes(5, b"body") + put_bytes(2, metric) + put_number(99, 1)
    assert decode(data).metrics == (Metric(value=Value(Kind.INT, 6)),)
    assert decode(put_number(3, 1) + put_number(3, 2)).seq == 2


def test_not_a_number_survives():
    value = Value(Kind.DOUBLE, math.nan)
    back = decode(encode(Payload(1, (Metric("x", value=value),)))).metrics[0].value
    assert back is not None
    assert math.isnan(back.content)


def test_fields_are_lazy_about_nothing():
    assert [f.number for f in fields(put_number(1, 2) + put_bytes(3, b"x"))] == [1, 3]
