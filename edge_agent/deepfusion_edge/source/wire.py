"""What a reader process and the agent tell each other. Pure.

The agent writes one line of JSON (:class:`Order`) to the reader's standard input, then one byte for
each slot it gives back. The reader writes messages of fixed size, with a short text behind them.
Pixels lie in shared memory: ``slots`` places of ``slot_bytes``, RGB. A message is checked before
anything it names is touched; what breaks a rule is :class:`Garbage`, and the reader is killed.
"""

import enum
import struct
from typing import Literal, NamedTuple

import msgspec

MAX_TEXT_BYTES = 400
MAX_ORDER_BYTES = 2**16
_HEAD = struct.Struct("<4sBBHIIId")
_MAGIC = b"dfr1"
_FAR_FUTURE_S = 4e9


class Garbage(Exception):  # noqa: N818 - not a user's error, and never reported as one
    """A reader said something that no reader says."""


class Kind(enum.IntEnum):
    """What a message says."""

    OPENED = 1
    FRAME = 2
    END = 3
    FAILED = 4


class Message(NamedTuple):
    """One message of a reader.

    Attributes:
        slot: where a frame's pixels are.
        width, height: of a frame.
        skipped: frames that the reader left out since it began, because no slot was free.
        captured_s: when it read the frame, seconds since 1970.
        text: why it failed.
    """

    kind: Kind
    slot: int = 0
    width: int = 0
    height: int = 0
    skipped: int = 0
    captured_s: float = 0.0
    text: str = ""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader is to read, and how.

    Attributes:
        parent: process to end with.
        memory: descriptor of the shared memory.
        target: device number, path, URL or pipeline, with the password in it.
        wait: wait for a free slot instead of leaving a frame out.
        real_time: read a file as slowly as it was recorded.
        timeout_ms: what OpenCV is told of the time-outs; the agent has clocks of its own.
    """

    parent: int
    memory: int
    slots: int
    slot_bytes: int
    kind: Literal["device", "url", "pipeline", "file"]
    target: int | str
    wait: bool
    real_time: bool = False
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    open_timeout_ms: int
    read_timeout_ms: int


def pack(message: Message) -> bytes:
    """Spell a message; its text is cut to :data:`MAX_TEXT_BYTES`."""
    text = message.text.encode(errors="replace")[:MAX_TEXT_BYTES]
    head = _HEAD.pack(
        _MAGIC,
        message.kind,
        message.slot,
        len(text),
        message.width,
        message.height,
        message.skipped,
        message.captured_s,
    )
    return head + text


def unpack(data: bytearray) -> Message | None:
    """Take one whole message from the front of ``data``; None if there is no whole one yet.

    Raises:
        Garbage: these bytes are no message.
    """
    if len(data) < _HEAD.size:
        return None
    magic, kind, slot, length, width, height, skipped, captured_s = _HEAD.unpack_from(data)
    if magic != _MAGIC or length > MAX_TEXT_BYTES or kind not in set(Kind):
        raise Garbage
    if not 0 <= captured_s < _FAR_FUTURE_S:  # not a number included
        raise Garbage
    if len(data) < _HEAD.size + length:
        return None
    text = bytes(data[_HEAD.size : _HEAD.size + length]).decode(errors="replace")
    del data[: _HEAD.size + length]
    return Message(Kind(kind), slot, width, height, skipped, captured_s, text)
