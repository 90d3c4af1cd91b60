"""Several processes of this machine, each with its share of the cores or a GPU of its own."""

import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from os import _exit
from typing import Any

import torch

from deepfusion_toolkit.engines.base import (
    C,
    Event,
    Failed,
    Job,
    Lost,
    Notify,
    R,
    Ready,
    Work,
    cores,
)
from deepfusion_toolkit.engines.sharing import attempt, share_out

END_S = 5.0
"""Seconds that a worker has to end before it is killed."""


class Processes:
    """Workers that are spawned here; see ``base.Engine``."""

    name = "processes"

    def __init__(self, workers: int | None = None, device: str = "cpu") -> None:
        count = cores() if device == "cpu" else max(1, torch.cuda.device_count())
        self.workers, self.device = workers or count, device
        self.threads = max(1, cores() // self.workers)

    def run(
        self,
        job: Job[C, R],
        chunks: Sequence[C],
        *,
        threads: int,
        notify: Notify,
        here: Callable[[], Work[C, R]],  # noqa: ARG002 - for the engine that is here
    ) -> Generator[tuple[C, R]]:
        """See ``base.Engine.run``."""
        crew = _Spawned(job, self.device, threads)
        return share_out(crew, self.workers, chunks, job.names, notify)


class _Spawned:
    """A crew of processes, one pipe each: an end of file says that its process is gone."""

    def __init__(self, job: Job[Any, Any], device: str, threads: int) -> None:
        self._job, self._device, self._threads = job, device, threads
        self._started = 0
        self._pipes: dict[int, Connection] = {}
        self._processes: dict[int, SpawnProcess] = {}
        self._seats: dict[int, int] = {}

    def start(self) -> int:
        number, self._started = self._started, self._started + 1
        taken = set(self._seats.values())
        seat = next(n for n in range(len(taken) + 1) if n not in taken)
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work,
            args=(theirs, self._job, _device(self._device, seat), self._threads),
            name=f"deepfusion-worker-{number}",
            daemon=True,
        )
        self._pipes[number], self._processes[number] = ours, process
        self._seats[number] = seat
        with theirs, _deaf_to_interrupts():
            process.start()
        return number

    def give(self, worker: int, chunk: object) -> None:
        with suppress(OSError):  # it is gone: wait() will say so
            self._pipes[worker].send(chunk)

    def wait(self) -> tuple[int, Event]:
        pipe = connection.wait(list(self._pipes.values()))[0]
        worker = next(number for number, own in self._pipes.items() if own is pipe)
        try:
            event: Event = self._pipes[worker].recv()
        except (EOFError, OSError):
            return worker, Lost(self._farewell(worker))
        return worker, event

    def stop(self) -> None:
        for process in self._processes.values():
            if process.is_alive():
                process.terminate()
        for worker in list(self._processes):
            self._farewell(worker)

    def _farewell(self, worker: int) -> str:
        process = self._processes.pop(worker)
        self._pipes.pop(worker).close()
        del self._seats[worker]
        if process.pid is None:  # interrupted before it was started
            return "not started"
        process.join(END_S)
        if process.exitcode is None:
            process.kill()
            process.join()
        code = process.exitcode or 0
        process.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _device(device: str, seat: int) -> str:
    return f"cuda:{seat % max(1, torch.cuda.device_count())}" if device == "cuda" else device


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: their parent hears it and ends them."""
    resource_tracker.ensure_running()  # it would lift the block when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, job: Job[Any, Any], device: str, threads: int) -> None:
    """Live as a worker: open the job, then answer each chunk until the parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with a clean-up of what libraries hold
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    opened = attempt(lambda _notify: job.open(device))
    if isinstance(opened, Failed):
        pipe.send(opened)
        return
    pipe.send(Ready())
    with suppress(EOFError, OSError):
        while True:
            chunk = pipe.recv()
            pipe.send(attempt(lambda notify, chunk=chunk: opened.result(chunk, notify)))  # type: ignore[misc]


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        _exit(1)
