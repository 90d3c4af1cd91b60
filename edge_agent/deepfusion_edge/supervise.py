"""``deepfusion-agent run --supervise``: start the agent again whenever it ends badly.

The same for a terminal and for systemd, whose own limit gives up for ever after five tries. A
graph that hangs, a crash in a driver and memory that runs out end a process; only another one can
mend it.
"""

import contextlib
import ctypes
import logging
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType

from deepfusion_edge.console import INTERRUPTED
from deepfusion_edge.errors import RestartError, StorageError, UnreachableError, UsageError
from deepfusion_edge.watchdog import notify

log = logging.getLogger(__name__)

FINAL = frozenset({0, UsageError.exit_code, UnreachableError.exit_code, INTERRUPTED})
"""Exit codes after which nothing is started: done, wrong usage, interrupted, and a replay that
ended but could not be delivered: it must not be judged twice."""

BURST = 5
WINDOW_S = 60.0
QUICK_S = 0.5
SLOW_S = 10.0
SLOWEST_S = 300.0
_TICK_S = 1.0
_PR_SET_PDEATHSIG = 1


class BackOff:
    """How long to wait: 0.5 s, but after five starts within 60 s 10 s, 20 s, ... up to 300 s."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=BURST)
        self._slow = 0

    def delay_s(self, now_s: float) -> float:
        """Note that it ended at ``now_s`` seconds of a steady clock; return how long to wait."""
        if self._ends and now_s - self._ends[-1] > SLOWEST_S + WINDOW_S:
            self._ends.clear()  # it ran well for long
            self._slow = 0
        self._ends.append(now_s)
        crowded = len(self._ends) == BURST and now_s - self._ends[0] <= WINDOW_S
        if not crowded and not self._slow:
            return QUICK_S
        self._slow += 1
        return min(SLOWEST_S, SLOW_S * 2.0 ** min(self._slow - 1, 10))


def supervise(
    command: Sequence[str],
    *,
    back_off: BackOff | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> int:
    """Run a command until it ends with a code of ``FINAL`` or a signal ends us; give its exit code.

    SIGTERM and SIGINT are passed on, and the command may end in its own time. Call it in the main
    thread of a process that has no other.

    Raises:
        StorageError: no process can be started.
    """
    back_off = back_off or BackOff()
    stop = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        stop.set()
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while True:
            begun = monotonic()
            code = _run(command, running, stop)
            if stop.is_set() or code in FINAL:
                return code if code >= 0 else 128 - code
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            delay_s = 0.0 if code == RestartError.exit_code else back_off.delay_s(monotonic())
            log.warning(
                "the agent ended (%s) after %.0f s; it starts again in %.1f s",
                how,
                monotonic() - begun,
                delay_s,
            )
            notify(f"STATUS=the agent ended ({how}); it starts again in {delay_s:.1f} s")
            _wait(stop, delay_s, monotonic)
            if stop.is_set():
                return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(
    command: Sequence[str], running: list[subprocess.Popen[bytes]], stop: threading.Event
) -> int:
    try:
        # A session of its own: Ctrl-C reaches us alone and is passed on once.
        process = subprocess.Popen(
            list(command),
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - we have one thread
        )
    except OSError as error:
        raise StorageError(f"the agent cannot be started: {error}", "free some memory") from error
    running.append(process)
    if stop.is_set():  # the signal came when there was nobody to pass it on to
        process.terminate()
    try:
        return process.wait()
    finally:
        running.remove(process)


def _end_with_parent() -> None:
    """Have the agent stop, in order, when its supervisor is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(stop: threading.Event, delay_s: float, monotonic: Callable[[], float]) -> None:
    """Wait, and tell systemd meanwhile that nothing hangs."""
    until = monotonic() + delay_s
    while (left_s := until - monotonic()) > 0 and not stop.wait(min(left_s, _TICK_S)):
        notify("WATCHDOG=1")
