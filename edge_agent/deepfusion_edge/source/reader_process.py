"""The agent's side of a reader process: start it, hear it, give slots back, kill it."""

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

import deepfusion_edge
from deepfusion_edge.image import Pixels
from deepfusion_edge.source.wire import Garbage, Kind, Message, Order, unpack

READER = (sys.executable, "-m", "deepfusion_edge.source.reader")
_CHUNK_BYTES = 2**16
_KEPT_VARIABLES = (
    "CUDA_",
    "GST_",
    "HOME",
    "LANG",
    "LC_",
    "LD_LIBRARY_PATH",
    "NVIDIA_",
    "OPENCV_",
    "PATH",
    "PYTHON",
    "TMPDIR",
    "VIRTUAL_ENV",
    "XDG_",
)
"""What a reader's environment may begin with: passwords of others are not among it."""


class Gone(Exception):  # noqa: N818 - an answer, not a user's error
    """The reader ended; the text says how."""


class ReaderProcess:
    """One running reader. Never waits for it."""

    def __init__(
        self, order: Order, *, command: Sequence[str] = READER, variables: Mapping[str, str]
    ) -> None:
        """Start it.

        Args:
            order: what to read; ``parent`` and ``memory`` are filled in here.
            command: what to start.
            variables: added to its environment.

        Raises:
            OSError: no process can be started.
        """
        self._slots, self._slot_bytes = order.slots, order.slot_bytes
        self._away: set[int] = set()  # slots that hold frames for us
        self._heard = bytearray()
        self._opened = False
        memory = _anonymous(order.slots * order.slot_bytes)
        try:
            self._memory = mmap.mmap(memory, order.slots * order.slot_bytes)
            self.process = subprocess.Popen(
                list(command),
                cwd=Path(deepfusion_edge.__file__).parent.parent,
                env=environment(variables),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[memory],
                bufsize=0,
            )
            filled = msgspec.structs.replace(order, parent=os.getpid(), memory=memory)
        finally:
            os.close(memory)
        os.set_blocking(self.fileno(), False)
        self._say(msgspec.json.encode(filled) + b"\n")

    def fileno(self) -> int:
        """Give the descriptor on which it is heard."""
        assert self.process.stdout is not None  # noqa: S101 - a pipe, see above
        return self.process.stdout.fileno()

    @property
    def is_waiting(self) -> bool:
        """Whether it can give no frame before a slot is given back."""
        return len(self._away) == self._slots

    def hear(self) -> list[Message]:
        """Return what it has said since.

        Raises:
            Gone: it ended, and everything it had said was heard.
            Garbage: it broke a rule of the protocol.
        """
        ended = False
        try:
            chunk = os.read(self.fileno(), _CHUNK_BYTES)
            ended = not chunk
            self._heard += chunk
        except BlockingIOError:
            pass
        messages = []
        while (message := unpack(self._heard)) is not None:
            self._check(message)
            messages.append(message)
        if ended and not messages:
            raise Gone(_ending(self.process.poll()))
        return messages

    def pixels(self, message: Message) -> Pixels:
        """Copy a frame out of its slot, RGB uint8 [H, W, 3], and give the slot back."""
        size = message.height * message.width * 3
        start = message.slot * self._slot_bytes
        copy = np.frombuffer(self._memory[start : start + size], np.uint8)
        self.give_back(message)
        return copy.reshape(message.height, message.width, 3)

    def give_back(self, message: Message) -> None:
        """Let the reader have a frame's slot again."""
        self._away.discard(message.slot)
        self._say(bytes([message.slot]))

    def kill(self) -> None:
        """End it; it is gone once ``process.poll()`` says so."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _say(self, data: bytes) -> None:
        pipe = self.process.stdin
        if pipe is not None and not pipe.closed:
            # At most the order and a byte a slot: far less than a pipe holds, so this never waits.
            with contextlib.suppress(BrokenPipeError):
                pipe.write(data)

    def _check(self, message: Message) -> None:
        if message.kind == Kind.OPENED and not self._opened:
            self._opened = True
            return
        if message.kind in {Kind.END, Kind.FAILED}:
            return
        size = message.width * message.height * 3
        if not self._opened or message.slot >= self._slots or message.slot in self._away:
            raise Garbage
        if not 0 < size <= self._slot_bytes:
            raise Garbage
        self._away.add(message.slot)


def _anonymous(size: int) -> int:
    """Make shared memory that has no name and goes with its last user; only what is used exists."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("frames")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Make a reader's environment: what it needs of ours, and ``variables``."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT_VARIABLES)}
    return {**kept, **variables}


def _ending(code: int | None) -> str:
    if code is None or code == 0:
        return "its reader ended"
    return f"its reader was ended by signal {-code}" if code < 0 else f"its reader failed ({code})"
