"""A thread of the run whose failure is carried to whoever can report it; for the agent alone."""

import threading
from collections.abc import Callable


class Worker:
    """A thread as a context: leaving it asks it to finish and waits; its failure ends the run.

    Args:
        name: of the thread.
        work: its body; gets the event that asks it to finish.
        stop: of the run; set where the body fails.
    """

    def __init__(
        self, name: str, work: Callable[[threading.Event], None], stop: threading.Event
    ) -> None:
        self._work, self._stop = work, stop
        self._finish = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> "Worker":  # noqa: PYI034 - Self is not in Python 3.10
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(None)
        if self._failure is not None and kind is None:
            raise self._failure

    def finish(self, timeout_s: float | None) -> None:
        """Ask it to finish and wait."""
        self._finish.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._work(self._finish)
        except BaseException as error:  # noqa: BLE001 - carried to the thread that can report it
            self._failure = error
            self._stop.set()
