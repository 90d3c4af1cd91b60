"""Files by way of a process of their own: a share that hangs, hangs that process alone."""

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deepfusion_edge.config import FolderSource
from deepfusion_edge.source import files
from deepfusion_edge.source.files import CONTENT, ERROR, HEAD, LISTING, Listing, Version
from deepfusion_edge.source.reader_process import environment

COMMAND = (sys.executable, "-I", "-S", files.__file__)
MOST_UNKILLED = 3
_CHUNK_BYTES = 2**18
_PIPE_BYTES = 2**20
_LISTING_BYTES = 2**28


class OwnFiles:
    """The folder, read by this process."""

    def __init__(self, config: FolderSource) -> None:
        self._config = config
        self._path: str | None = None

    def ask(self, path: str | None) -> None:
        """Ask for a file below the folder; for the listing, if ``path`` is None."""
        self._path = path

    def answer(self) -> Listing | bytes | None:
        """Give what was asked for; None if it is not there yet.

        Raises:
            OSError: it cannot be had; TimeoutError: nobody answers, perhaps later.
        """
        config = self._config
        if self._path is None:
            return files.listing(config.path, pattern=config.pattern, recursive=config.recursive)
        return files.content(config.path, self._path, max_bytes=config.max_bytes)

    def fileno(self) -> int | None:
        """Give a descriptor that can be read when an answer comes; None: there is no waiting."""
        return None

    def close(self) -> None:
        """Let go."""


class FileProcess(OwnFiles):
    """The folder, read by a process that is killed when it does not answer in time.

    A process that hangs in the kernel does not even die then: after three of those no more are
    started until one of them ends.
    """

    def __init__(
        self,
        config: FolderSource,
        *,
        command: Sequence[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config)
        self._command, self._monotonic = tuple(command or COMMAND), monotonic
        self._process: subprocess.Popen[bytes] | None = None
        self._dying: list[subprocess.Popen[bytes]] = []
        self._heard = bytearray()
        self._heard_at = 0.0
        self._waits = False
        self._failure = TimeoutError()

    def ask(self, path: str | None) -> None:
        """See ``OwnFiles``; a failure is told by :meth:`answer`."""
        super().ask(path)
        self._heard_at, self._waits = self._monotonic(), True
        config = self._config
        request = [config.path, path, config.pattern, config.recursive, config.max_bytes]
        try:
            process = self._process = self._process or self._start()
        except OSError as error:
            self._given_up(error.strerror or "no reader can be started")
            return
        assert process.stdin is not None  # noqa: S101 - a pipe, see below
        with contextlib.suppress(BrokenPipeError):  # it ended; that is heard
            process.stdin.write(json.dumps(request).encode() + b"\n")

    def answer(self) -> Listing | bytes | None:
        """See ``OwnFiles``."""
        process = self._process
        if process is None:
            raise self._failure
        ended = self._hear(process)
        if len(self._heard) >= HEAD.size:
            kind, size = HEAD.unpack_from(self._heard)
            most = self._config.max_bytes + 1 if kind == CONTENT else _LISTING_BYTES
            if kind not in {LISTING, CONTENT, ERROR} or size > most:
                raise self._given_up("its reader sent garbage")
            if len(self._heard) >= HEAD.size + size:
                body = bytes(self._heard[HEAD.size : HEAD.size + size])
                self._heard.clear()
                self._waits = False
                return _meaning(kind, body)
        if ended:
            raise self._given_up("its reader ended")
        if self._monotonic() - self._heard_at > self._config.read_timeout_s:
            raise self._given_up(f"no answer for {self._config.read_timeout_s:g} s")
        return None

    def fileno(self) -> int | None:
        """See ``OwnFiles``."""
        process = self._process
        if process is None or process.stdout is None or not self._waits:
            return None
        return process.stdout.fileno()

    def close(self) -> None:
        """Kill the process; do not wait for one that cannot die."""
        self._kill()
        for process in self._dying:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)

    def _start(self) -> subprocess.Popen[bytes]:
        self._dying = [process for process in self._dying if process.poll() is None]
        if len(self._dying) >= MOST_UNKILLED:
            raise TimeoutError(
                errno.ETIMEDOUT, f"{len(self._dying)} readers hang and cannot be killed"
            )
        self._heard.clear()
        process = subprocess.Popen(
            list(self._command),
            cwd=Path(files.__file__).parent,  # not where the agent was started: perhaps the share
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert process.stdout is not None  # noqa: S101 - a pipe
        os.set_blocking(process.stdout.fileno(), False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # a user's pipes have a limit together
                fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return process

    def _hear(self, process: subprocess.Popen[bytes]) -> bool:
        """Take what was said; return whether it will say nothing more."""
        assert process.stdout is not None  # noqa: S101 - a pipe
        while True:
            try:
                chunk = os.read(process.stdout.fileno(), _CHUNK_BYTES)
            except BlockingIOError:
                return False
            if not chunk:
                return True
            self._heard += chunk
            self._heard_at = self._monotonic()  # a long answer may have waited for us to take it

    def _given_up(self, reason: str) -> TimeoutError:
        self._kill()
        self._waits = False
        self._failure = TimeoutError(errno.ETIMEDOUT, reason)
        return self._failure

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self._dying.append(process)


def _meaning(kind: bytes, body: bytes) -> Listing | bytes:
    if kind == CONTENT:
        return body
    value = json.loads(body)
    if kind == ERROR:
        raise OSError(*value)
    return {path: Version(*version) for path, version in value.items()}
