"""What wakes a thread that waits for a socket."""

import contextlib
import os
import weakref


class Alarm:
    """Wakes a thread that waits in select; costs nothing while that thread is busy."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
            weakref.finalize(self, os.close, end)
        self._asleep = self._rung = False

    def fileno(self) -> int:
        """Return what select waits for."""
        return self._reader

    def ring(self) -> None:
        """Wake it, or keep its next waiting from beginning; for any thread."""
        self._rung = True
        if self._asleep:
            with contextlib.suppress(BlockingIOError):
                os.write(self._writer, b"!")

    def __enter__(self) -> bool:
        """Go to sleep; say whether it rang before."""
        self._asleep = True  # first: who rings from now on writes
        return self._rung

    def __exit__(self, *_: object) -> None:
        self._asleep = self._rung = False
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)
