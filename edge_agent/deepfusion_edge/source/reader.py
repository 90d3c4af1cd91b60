"""The process that reads a camera or video file; it may hang or crash, and is then replaced.

``python -m deepfusion_edge.source.reader``; the protocol is in ``wire``. Nothing it prints is kept:
FFmpeg quotes URLs.
"""

import ctypes
import mmap
import os
import select
import signal
import sys
import time
from collections import deque
from typing import Any

import msgspec
import numpy as np

from deepfusion_edge.source.wire import MAX_ORDER_BYTES, Kind, Message, Order, pack

_PR_SET_PDEATHSIG = 1
_BACKENDS = {"device": "V4L2", "url": "FFMPEG", "pipeline": "GSTREAMER", "file": "FFMPEG"}
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class _Trouble(Exception):  # noqa: N818 - it ends as a message, not as a traceback
    """Why there are no more frames."""


class _Slots:
    """The free places of the shared memory."""

    def __init__(self, count: int) -> None:
        self._free = deque(range(count))

    def take(self, *, wait: bool) -> int | None:
        """Take a free one; None if there is none and nobody waits."""
        while select.select([_STDIN], [], [], None if wait and not self._free else 0)[0]:
            given = os.read(_STDIN, 64)
            if not given:
                sys.exit(0)  # the agent is gone
            self._free.extend(given)
        return self._free.popleft() if self._free else None

    def give_back(self, slot: int) -> None:
        """Have it free again: there was nothing to put into it."""
        self._free.appendleft(slot)


def main() -> None:
    """Read what the order says until there is no more."""
    # What libraries print must not reach the messages, nor anybody's log.
    out = os.dup(_STDOUT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDOUT)
    os.dup2(nowhere, _STDERR)
    order = msgspec.json.decode(_line(), type=Order)
    _end_with(order.parent)

    def tell(message: Message) -> None:
        data = pack(message)
        while data:
            data = data[os.write(out, data) :]

    try:
        _read(order, tell)
    except _Trouble as trouble:
        tell(Message(Kind.FAILED, text=str(trouble)))
    except MemoryError:
        tell(Message(Kind.FAILED, text="not enough memory for a frame"))
    except BrokenPipeError:
        return


def _line() -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        byte = os.read(_STDIN, 1)  # no more than the line: slots follow
        if not byte or len(data) > MAX_ORDER_BYTES:
            sys.exit(2)
        data += byte
    return data


def _end_with(parent: int) -> None:
    """Be killed when the agent ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _read(order: Order, tell: Any) -> None:  # noqa: ANN401 - a function of a message
    cv2 = _import()
    cv2.setNumThreads(1)
    memory = mmap.mmap(order.memory, order.slots * order.slot_bytes)
    slots, skipped, count = _Slots(order.slots), 0, 0
    capture = _open(cv2, order)
    tell(Message(Kind.OPENED))
    interval_s = _interval_s(cv2, capture) if order.real_time else 0.0
    begun = time.monotonic()
    while capture.grab():
        captured_s = time.time()
        slot = slots.take(wait=order.wait)
        if slot is None:
            skipped += 1
        else:
            good, frame = capture.retrieve()
            if not good:
                slots.give_back(slot)
                break
            place = memoryview(memory)[slot * order.slot_bytes : (slot + 1) * order.slot_bytes]
            height, width = _put(cv2, frame, place)
            tell(Message(Kind.FRAME, slot, width, height, skipped, captured_s))
        count += 1
        time.sleep(max(0.0, begun + count * interval_s - time.monotonic()) if interval_s else 0.0)
    if order.kind == "file" and count:
        tell(Message(Kind.END, skipped=skipped))
        return
    raise _Trouble("no frame could be decoded" if not count else "the stream ended")


def _import() -> Any:  # noqa: ANN401 - its types are not worth the name
    try:
        import cv2
    except ImportError as error:
        raise _Trouble(
            f"OpenCV cannot be loaded ({type(error).__name__}): run"
            " 'pip install deepfusion-edge[camera]'"
        ) from error
    return cv2


def _open(cv2: Any, order: Order) -> Any:  # noqa: ANN401 - as above
    name = {"device": "V4L2", "url": "FFMPEG", "pipeline": "GSTREAMER", "file": "FFMPEG"}[
        order.kind
    ]
    backend = getattr(cv2, f"CAP_{name}")
    if backend not in cv2.videoio_registry.getBackends():
        raise _Trouble(
            f"this OpenCV was built without {name}: install one that has it"
            " (JetPack's own has GStreamer)"
        )
    options = []
    if order.kind in {"url", "file"}:
        options += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, order.open_timeout_ms]
        options += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, order.read_timeout_ms]
    for key, value in (
        ("FRAME_WIDTH", order.width),
        ("FRAME_HEIGHT", order.height),
        ("FPS", order.fps),
    ):
        if value is not None and order.kind == "device":
            options += [getattr(cv2, f"CAP_PROP_{key}"), round(value)]
    try:
        capture = cv2.VideoCapture(order.target, backend, options)
    except cv2.error as error:
        raise _Trouble("OpenCV cannot open it") from error
    if not capture.isOpened():
        raise _Trouble("it cannot be opened: not there, refused, or of an unknown format")
    return capture


def _interval_s(cv2: Any, capture: Any) -> float:  # noqa: ANN401 - as above
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return 1 / fps if 0 < fps <= 1000 else 1 / 25  # noqa: PLR2004 - what players assume


def _put(cv2: Any, frame: Any, place: memoryview) -> tuple[int, int]:  # noqa: ANN401 - as above
    """Write a frame as RGB into its place and return height and width."""
    if frame.dtype != np.uint8 or frame.ndim not in {2, 3} or frame.shape[2:] not in {(), (3,)}:
        raise _Trouble(f"frames of {frame.dtype} {list(frame.shape)}, not 8-bit grey or colour")
    height, width = frame.shape[:2]
    size = height * width * 3
    if size > len(place):
        raise _Trouble(
            f"frames of {width}x{height} pixels, at most {len(place) // 3}: raise max_pixels"
        )
    pixels = np.frombuffer(place[:size], np.uint8).reshape(height, width, 3)
    code = cv2.COLOR_BGR2RGB if frame.ndim == 3 else cv2.COLOR_GRAY2RGB  # noqa: PLR2004
    cv2.cvtColor(frame, code, dst=pixels)
    return height, width


if __name__ == "__main__":
    main()
