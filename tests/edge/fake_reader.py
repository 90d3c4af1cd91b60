"""A reader process that misbehaves in one named way; started by the tests of cameras."""

import mmap
import os
import signal
import sys
import time

import msgspec

from deepfusion_edge.source.wire import Kind, Message, Order, pack

OPENED = Message(Kind.OPENED)


def frame(slot, number=0, *, width=4, height=2, skipped=0):
    return Message(Kind.FRAME, slot, width, height, skipped, 1000.0 + number)


def say(*messages):
    for message in messages:
        os.write(1, message if isinstance(message, bytes) else pack(message))


def sleep():
    while True:
        time.sleep(60)


def stream(memory, order, *, count=None):
    """Frames whose red says their number; waits for slots."""
    free, number = list(range(order.slots)), 0
    say(OPENED)
    while count is None or number < count:
        while not free:
            free += os.read(0, 64) or sys.exit(0)
        slot = free.pop(0)
        start = slot * order.slot_bytes
        memory[start : start + 24] = bytes([number % 256, 1, 2]) * 8
        say(frame(slot, number))
        number += 1


def crash(memory, order):
    stream(memory, order, count=2)
    os.kill(os.getpid(), signal.SIGSEGV)


def noise(*_):
    say(OPENED, os.urandom(4096))
    sleep()


def for_ever(*messages):
    while True:
        say(*messages)


def then(end, **options):
    return lambda memory, order: (stream(memory, order, **options), end())


WAYS = {
    "hangs-at-once": lambda *_: sleep(),
    "cannot-open": lambda _, order: say(Message(Kind.FAILED, text=f"cannot open {order.target}")),
    "opens-and-hangs": lambda *_: (say(OPENED), sleep()),
    "two-and-hangs": then(sleep, count=2),
    "two-and-dies": then(lambda: sys.exit(3), count=2),
    "two-and-crashes": crash,
    "five": then(lambda: say(Message(Kind.END)), count=5),
    "waits": stream,
    "skips": lambda *_: say(
        OPENED, frame(0, 0), frame(1, 5, skipped=4), Message(Kind.END, skipped=6)
    ),
    "noise": noise,
    "endless-noise": lambda *_: for_ever(bytes(65536)),
    "opens-for-ever": lambda *_: for_ever(OPENED),
}


def rude(way, order):
    """What no reader says, after it has opened."""
    return {
        "frame-before-opened": [],
        "slot-out-of-range": [OPENED, frame(order.slots)],
        "slot-twice": [OPENED, frame(0), frame(0)],
        "too-large": [OPENED, frame(0, width=2**31, height=2**31)],
        "larger-than-slot": [OPENED, frame(0, width=order.slot_bytes, height=1)],
        "no-size": [OPENED, frame(0, width=0)],
        "no-time": [OPENED, frame(0, float("nan"))],
        "far-future": [OPENED, frame(0, 1e300)],
        "long-text": [OPENED, pack(OPENED)[:6] + b"\xff\xff" + pack(OPENED)[8:]],
        "unknown-kind": [OPENED, b"dfr1\x09" + pack(OPENED)[5:]],
    }[way] or [frame(0)]


def main(way):
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    order = msgspec.json.decode(line, type=Order)
    memory = mmap.mmap(order.memory, order.slots * order.slot_bytes)
    if way in WAYS:
        WAYS[way](memory, order)
    else:
        say(*rude(way, order))
        sleep()


if __name__ == "__main__":
    main(sys.argv[1])
