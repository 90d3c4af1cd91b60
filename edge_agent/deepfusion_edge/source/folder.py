"""Images of a folder: replayed once in sorted order, or watched for new ones."""

import fnmatch
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge.config import FolderSource
from deepfusion_edge.console import error_from_os
from deepfusion_edge.errors import DeepFusionError, InputError
from deepfusion_edge.source.base import Frame, Source

SUFFIXES = (".png", ".jpg", ".jpeg")


class _Version(NamedTuple):
    """Which content of a file this is, without reading it."""

    mtime_ns: int
    size: int


class Folder(Source):
    """PNG and JPEG files of a folder; hidden files and other suffixes are left alone.

    A watched file is taken when two listings in a row show the same size and time (nobody is
    writing it any more), and once for each (name, time, size). What was there when a run begins
    counts as new.
    """

    def __init__(
        self,
        config: FolderSource,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at the folder.

        Raises:
            InputError: it is no folder, or there is nothing to replay in it.
        """
        super().__init__(config.name, poll_interval_s=config.poll_interval_s)
        self._config = config
        self._root = Path(config.path)
        self._now, self._monotonic = now, monotonic
        self._sequence = 0
        try:
            found = self._list()
        except OSError as error:
            raise InputError(
                f"source {config.name}: {error_from_os(error).what}", "check sources[].path"
            ) from error
        if config.mode == "replay" and not found:
            raise InputError(
                f"source {config.name}: no {', '.join(SUFFIXES)} files that match"
                f" {config.pattern!r} in {self._root}",
                "check sources[].path, pattern and recursive",
            )

    def __iter__(self) -> Iterator[Frame | None]:
        return self._replay() if self._config.mode == "replay" else self._watch()

    def _replay(self) -> Iterator[Frame | None]:
        for path in sorted(self._list()):
            yield self._frame(path)
        self.connection = "ended"

    def _watch(self) -> Iterator[Frame | None]:
        taken: dict[str, _Version] = {}
        previous: dict[str, _Version] = {}
        while True:
            begun = self._monotonic()
            try:
                current = self._list()
            except OSError as error:
                if self.connection != "lost":
                    self.connection, self.reason = "lost", error_from_os(error).what
                    yield self._failed("", error_from_os(error))
            else:
                self.connection, self.reason = "connected", ""
                taken = {path: version for path, version in taken.items() if path in current}
                for path, version in sorted(
                    current.items(), key=lambda kv: (kv[1].mtime_ns, kv[0])
                ):
                    if previous.get(path) == version and taken.get(path) != version:
                        taken[path] = version
                        yield self._frame(path)
                previous = current
            yield None
            while self._monotonic() - begun < self.poll_interval_s:
                yield None

    def _list(self) -> dict[str, _Version]:
        """List the matching files by their path below the root."""
        found: dict[str, _Version] = {}
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(self._root / folder))
            except FileNotFoundError:
                if folder:
                    continue
                raise
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders += [path] * self._config.recursive
                elif self._matches(entry.name):
                    version = _version(entry)
                    if version is not None:
                        found[path] = version
        return found

    def _matches(self, name: str) -> bool:
        return name.lower().endswith(SUFFIXES) and fnmatch.fnmatchcase(name, self._config.pattern)

    def _frame(self, path: str) -> Frame:
        try:
            return self._made(path, _read(self._root / path, self._config.max_bytes))
        except OSError as error:
            return self._failed(path, error_from_os(error))
        except InputError as error:
            return self._failed(path, error)

    def _failed(self, path: str, error: DeepFusionError) -> Frame:
        return self._made(path, error)

    def _made(self, path: str, content: bytes | DeepFusionError) -> Frame:
        frame = Frame(
            source=self.name,
            name=os.fsencode(path).decode("utf-8", "backslashreplace"),
            content=content,
            captured_s=self._now(),
            sequence=self._sequence,
            max_pixels=self._config.max_pixels,
        )
        self._sequence += 1
        return frame


def _version(entry: os.DirEntry[str]) -> _Version | None:
    try:
        info = entry.stat()
    except OSError:  # vanished, or a link to nowhere
        return None
    return _Version(info.st_mtime_ns, info.st_size) if stat.S_ISREG(info.st_mode) else None


def _read(path: Path, max_bytes: int) -> bytes:
    # O_NONBLOCK: a pipe that took the place of the file must not hang the line.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(
            f"image file of more than {max_bytes} bytes", "shrink it or raise sources[].max_bytes"
        )
    return data
