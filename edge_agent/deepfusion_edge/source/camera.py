"""Cameras and video files, read by a process that may be killed; lost ones are connected again."""

import contextlib
import random
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge.config import CameraSource, VideoSource
from deepfusion_edge.console import one_line
from deepfusion_edge.errors import InputError
from deepfusion_edge.report.payload import Connection
from deepfusion_edge.secret import read_secret
from deepfusion_edge.source.base import Frame, Source
from deepfusion_edge.source.reader_process import READER, Gone, ReaderProcess
from deepfusion_edge.source.target import Target, camera_target
from deepfusion_edge.source.wire import Garbage, Kind, Message, Order

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
MOST_UNKILLED = 3
_PAGE_BYTES = 4096
_POLL_S = 0.2


class _Waiting(NamedTuple):
    """A frame in its slot, which outlives the process that filled it."""

    reader: ReaderProcess
    message: Message
    sequence: int


class Camera(Source):
    """Frames of a reader process.

    A reader that says nothing in time, ends, or breaks the protocol is killed, and another one is
    started after a delay that doubles up to 30 s and begins anew once a connection held as long.
    """

    def __init__(
        self,
        config: CameraSource | VideoSource,
        *,
        command: Sequence[str] = READER,
        monotonic: Callable[[], float] = time.monotonic,
        first_delay_s: float = FIRST_DELAY_S,
    ) -> None:
        """Prepare; the first reader is started by :meth:`tend`.

        Raises:
            UsageError, InputError: the password cannot be read, or the video file is not there.
        """
        super().__init__(config.name, poll_interval_s=_POLL_S)
        self.connection = "connecting"
        self.late_s = config.late_s if config.back_pressure == "drop-late" else None
        self._config, self._command, self._monotonic = config, command, monotonic
        self._first_delay_s = first_delay_s
        self._target = _target(config)
        self._reader: ReaderProcess | None = None
        self._dying: list[ReaderProcess] = []
        self._waiting: deque[_Waiting] = deque()
        self._opened = self._done = False
        self._connected_before = False
        self._since = self._heard_at = self._next_try = 0.0
        self._failures = self._sequence = self._skipped = 0

    def __iter__(self) -> Iterator[Frame | None]:
        while True:
            self.tend()
            if self._waiting:
                yield self._frame(self._waiting.popleft())
            elif self._done:
                return
            else:
                yield None

    def fileno(self) -> int | None:
        """Give the pipe on which the reader speaks."""
        return None if self._reader is None else self._reader.fileno()

    def tend(self) -> None:
        """Hear the reader, make room, and replace the reader if it is lost."""
        self._dying = [reader for reader in self._dying if reader.process.poll() is None]
        if self._reader is not None:
            self._hear(self._reader)
        elif not self._done and self._monotonic() >= self._next_try:
            self._connect()

    def close(self) -> None:
        """Kill the reader."""
        self._done = True
        self._let_go()
        for reader in self._dying:
            with contextlib.suppress(subprocess.TimeoutExpired):
                reader.process.wait(1)

    def _connect(self) -> None:
        if len(self._dying) >= MOST_UNKILLED:
            self._fail(f"{len(self._dying)} readers hang in the driver and cannot be killed")
            return
        config, target = self._config, self._target
        if self.connection == "lost":
            self.connection = "reconnecting"
        wait = config.back_pressure == "wait"
        pages = -(-config.max_pixels * 3 // _PAGE_BYTES)
        order = Order(
            parent=0,
            memory=0,
            # One more than may wait is being filled; where frames are dropped, one more is free.
            slots=config.queue + (1 if wait else 2),
            slot_bytes=pages * _PAGE_BYTES,
            kind=target.kind,
            target=target.value,
            wait=wait,
            real_time=isinstance(config, VideoSource) and config.pace == "real-time",
            open_timeout_ms=round(1000 * config.open_timeout_s),
            read_timeout_ms=round(1000 * config.read_timeout_s),
            width=getattr(config, "width", None),
            height=getattr(config, "height", None),
            fps=getattr(config, "fps", None),
        )
        try:
            self._reader = ReaderProcess(
                order, command=self._command, variables=target.variables(config.max_pixels)
            )
        except OSError as error:
            self._fail(f"no reader can be started ({error.strerror})")
            return
        self._opened, self._skipped = False, 0
        self._since = self._heard_at = self._monotonic()

    def _hear(self, reader: ReaderProcess) -> None:
        try:
            messages = reader.hear()
        except Gone as gone:
            self._fail(str(gone))
            return
        except Garbage:
            self._fail("its reader sent garbage")
            return
        for message in messages:
            self._take(reader, message)
            if self._reader is None:
                return
        moment = self._monotonic()
        if messages or reader.is_waiting:
            self._heard_at = moment
        limit_s = self._config.read_timeout_s if self._opened else self._config.open_timeout_s
        if moment - self._heard_at > limit_s:
            what = "no frame" if self._opened else "no connection"
            self._fail(f"{what} for {limit_s:g} s")

    def _take(self, reader: ReaderProcess, message: Message) -> None:
        if message.kind == Kind.OPENED:
            self._opened = True
        elif message.kind == Kind.FRAME:
            self._connected()
            self._count_skipped(message)
            self._waiting.append(_Waiting(reader, message, self._sequence))
            self._sequence += 1
            if self._config.back_pressure != "wait" and len(self._waiting) > self._config.queue:
                oldest = self._waiting.popleft()
                oldest.reader.give_back(oldest.message)
                self.tally.dropped += 1
        elif message.kind == Kind.END:
            self._count_skipped(message)
            self._finish("ended")
        else:
            self._fail(message.text)

    def _connected(self) -> None:
        if self.connection != "connected":
            self.tally.reconnects += self._connected_before
            self._connected_before = True
            self.connection, self.reason = "connected", ""

    def _count_skipped(self, message: Message) -> None:
        more = max(0, message.skipped - self._skipped)
        self._skipped += more
        self._sequence += more
        self.tally.dropped += more

    def _fail(self, reason: str) -> None:
        """Let the reader go: a file ends, a camera is tried again later."""
        self.reason = one_line(self._target.redact(reason))
        if isinstance(self._config, VideoSource):
            self._finish("lost")
            return
        self._let_go()
        moment = self._monotonic()
        if self.connection == "connected" and moment - self._since > LONGEST_DELAY_S:
            self._failures = 0
        delay_s = min(LONGEST_DELAY_S, self._first_delay_s * 2 ** min(self._failures, 16))
        self._failures += 1
        self._next_try = moment + delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self.connection = "lost"

    def _finish(self, connection: Connection) -> None:
        self.connection, self._done = connection, True
        self._let_go()

    def _let_go(self) -> None:
        if self._reader is not None:
            self._reader.kill()
            self._dying.append(self._reader)
            self._reader = None

    def _frame(self, waiting: _Waiting) -> Frame:
        return Frame(
            source=self.name,
            name=f"{waiting.sequence:08d}",
            content=waiting.reader.pixels(waiting.message),
            captured_s=waiting.message.captured_s,
            sequence=waiting.sequence,
            max_pixels=self._config.max_pixels,
        )


def _target(config: CameraSource | VideoSource) -> Target:
    if isinstance(config, VideoSource):
        if not Path(config.path).is_file():
            raise InputError(
                f"source {config.name}: {config.path} is no file", "check sources[].path"
            )
        return Target("file", config.path)
    field = f"source {config.name}: "
    password = read_secret(field, file=config.password_file, variable=config.password_env)
    return camera_target(config, password)
