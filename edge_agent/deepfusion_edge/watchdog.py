"""Is the judging thread alive? And what systemd is told of it."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable


class Watchdog:
    """Stuck is who has not called :meth:`beat` for ``limit_s`` seconds. Safe from any thread."""

    def __init__(self, limit_s: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nobody is stuck before the first beat."""
        self.limit_s = limit_s
        self._monotonic = monotonic
        self._beaten: float | None = None
        self._mutex = threading.Lock()

    def beat(self) -> None:
        """Say that the thread moves: before and after whatever may hang."""
        with self._mutex:
            self._beaten = self._monotonic()

    def rest(self) -> None:
        """Say that the thread is not expected to move from now on, until the next beat."""
        with self._mutex:
            self._beaten = None

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat; 0 while nobody is expected to move."""
        with self._mutex:
            return 0.0 if self._beaten is None else self._monotonic() - self._beaten

    @property
    def stuck(self) -> bool:
        """Whether the last beat is too long ago."""
        return self.silent_s > self.limit_s


def notify(message: str) -> bool:
    """Tell systemd, as sd_notify(3) does: ``READY=1``, ``WATCHDOG=1``, ``STOPPING=1``.

    Returns:
        Whether it was told; nothing is done, and nothing fails, where there is no systemd.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return False
    path = "\0" + address[1:] if address[0] == "@" else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.sendto(message.encode(), socket.MSG_NOSIGNAL, path)
        return True
    return False
