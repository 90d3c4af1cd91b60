"""What other threads ask of the loop: done by the judging thread between two frames."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Judging = TypeVar("Judging")
Answer = TypeVar("Answer")


class Control(Generic[Judging]):
    """Requests to one run; :meth:`request` and :meth:`restart` may be called from any thread.

    Attributes:
        stop: set it to end the run gracefully.
        restart_reason: why the run ends in order to begin again; None if it does not.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.stop = threading.Event() if stop is None else stop
        self.restart_reason: str | None = None
        self._waiting: deque[tuple[Callable[[Judging], Any], Future[Any]]] = deque()
        self._mutex = threading.Lock()
        self._closed = False

    def request(self, action: Callable[[Judging], Answer]) -> "Future[Answer]":
        """Have ``action`` called with the judge between two frames, or while none comes.

        The future gets what it returns or raises; it is cancelled if the run ends before. No frame
        is judged meanwhile: what takes long belongs into the caller's thread.
        """
        future: Future[Answer] = Future()
        with self._mutex:
            if self._closed:
                future.cancel()
            else:
                self._waiting.append((action, future))
        return future

    def restart(self, reason: str) -> None:
        """End the run gracefully, with the exit code that has it begun again."""
        self.restart_reason = reason
        self.stop.set()

    def serve(self, judging: Judging) -> None:
        """Do what was asked for; the judging thread calls it between frames."""
        while self._waiting:
            action, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                answer = action(judging)
            except Exception as error:  # noqa: BLE001 - told to the thread that asked
                future.set_exception(error)
            else:
                future.set_result(answer)

    def close(self) -> None:
        """Cancel what nobody will do any more."""
        with self._mutex:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            future.cancel()
