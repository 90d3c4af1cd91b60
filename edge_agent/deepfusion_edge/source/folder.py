"""Images of a folder: replayed once in sorted order, or watched for new ones."""

import os
import time
from collections.abc import Callable, Generator, Iterator
from typing import cast

from deepfusion_edge.config import FolderSource
from deepfusion_edge.console import error_from_os
from deepfusion_edge.errors import DeepFusionError, InputError
from deepfusion_edge.source.base import Frame, Source
from deepfusion_edge.source.file_process import FileProcess, OwnFiles
from deepfusion_edge.source.files import SUFFIXES, Listing, Version
from deepfusion_edge.source.mounts import is_share


class Folder(Source):
    """PNG and JPEG files of a folder; hidden files and other suffixes are left alone.

    A watched file is taken when two listings in a row show the same size and time (nobody is
    writing it any more), and once for each (name, time, size). What was there when a run begins
    counts as new.

    A folder on a share is read by a process of its own. When that does not answer in time, the
    source is lost, and what it was asked for is asked for again until the share answers.
    """

    def __init__(
        self,
        config: FolderSource,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at the folder, unless that could hang.

        Raises:
            InputError: it is no folder, or there is nothing to replay in it.
        """
        super().__init__(config.name, poll_interval_s=config.poll_interval_s)
        self._config = config
        self._now, self._monotonic = now, monotonic
        self._sequence = 0
        apart = config.own_process == "always" or (
            config.own_process == "auto" and is_share(config.path)
        )
        self._files = FileProcess(config, monotonic=monotonic) if apart else OwnFiles(config)
        if apart:
            self.connection = "connecting"
        else:
            self._check()

    def __iter__(self) -> Iterator[Frame | None]:
        return self._replay() if self._config.mode == "replay" else self._watch()

    def fileno(self) -> int | None:
        """Give the pipe on which the process answers."""
        return self._files.fileno()

    def close(self) -> None:
        """End the process."""
        self._files.close()

    def _check(self) -> None:
        self._files.ask(None)
        try:
            found = self._files.answer()
        except OSError as error:
            raise InputError(
                f"source {self.name}: {error_from_os(error).what}", "check sources[].path"
            ) from error
        if self._config.mode == "replay" and not found:
            raise self._nothing()

    def _nothing(self) -> InputError:
        config = self._config
        return InputError(
            f"source {config.name}: no {', '.join(SUFFIXES)} files that match"
            f" {config.pattern!r} in {config.path}",
            "check sources[].path, pattern and recursive",
        )

    def _replay(self) -> Iterator[Frame | None]:
        while True:
            try:
                found = yield from self._listing()
                break
            except OSError as error:
                self._lose(error)
                yield from self._pause(self._monotonic())
        self._regain()
        if not found:
            yield self._made("", self._nothing())
        for path in sorted(found):
            while (frame := (yield from self._frame(path))) is None:
                yield from self._pause(self._monotonic())
            yield frame
        self.connection = "ended"

    def _watch(self) -> Iterator[Frame | None]:
        taken: dict[str, Version] = {}
        previous: Listing = {}
        stalls: dict[str, int] = {}
        while True:
            begun = self._monotonic()
            try:
                current = yield from self._listing()
            except OSError as error:
                if self._lose(error) and not isinstance(error, TimeoutError):
                    yield self._made("", error_from_os(error))
            else:
                taken = {path: version for path, version in taken.items() if path in current}
                stalls = {path: times for path, times in stalls.items() if path in current}
                # A file at which the share stalled must not keep the others waiting.
                turns = sorted(
                    (stalls.get(path, 0), version.mtime_ns, path)
                    for path, version in current.items()
                    if previous.get(path) == version and taken.get(path) != version
                )
                for _, _, path in turns:
                    frame = yield from self._frame(path)
                    if frame is None:
                        stalls[path] = stalls.get(path, 0) + 1
                        break
                    taken[path] = current[path]
                    yield frame
                else:
                    self._regain()
                previous = current
            yield None
            yield from self._pause(begun)

    def _pause(self, begun: float) -> Iterator[None]:
        """Leave the folder alone until it is ``poll_interval_s`` after ``begun``."""
        while self._monotonic() - begun < self.poll_interval_s:
            yield None

    def _listing(self) -> Generator[None, None, Listing]:
        return cast("Listing", (yield from self._asked(None)))

    def _frame(self, path: str) -> Generator[None, None, Frame | None]:
        """Read a file; None if the share stalls."""
        max_bytes = self._config.max_bytes
        try:
            content = cast("bytes", (yield from self._asked(path)))
        except TimeoutError as error:
            self._lose(error)
            return None
        except OSError as error:
            return self._made(path, error_from_os(error))
        self._regain()
        if len(content) > max_bytes:
            return self._made(
                path,
                InputError(
                    f"image file of more than {max_bytes} bytes",
                    "shrink it or raise sources[].max_bytes",
                ),
            )
        return self._made(path, content)

    def _asked(self, path: str | None) -> Generator[None, None, Listing | bytes]:
        """Ask for a file or the listing, and wait for it without holding anybody up."""
        self._files.ask(path)
        while (answer := self._files.answer()) is None:
            yield None
        return answer

    def _lose(self, error: OSError) -> bool:
        """Be lost; returns whether that is new."""
        before, self.connection = self.connection, "lost"
        self.reason = error_from_os(error).what
        return before != "lost"

    def _regain(self) -> None:
        self.tally.reconnects += self.connection == "lost"
        self.connection, self.reason = "connected", ""

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
