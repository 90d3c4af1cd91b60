"""A Ray cluster (Ray, Apache-2.0): this file alone imports it.

Without an address a cluster is started on this machine for one run: on the loopback interface,
without dashboard and usage statistics. Data and models must be under the same path on every node.
"""

import logging
import os
import pickle
import socket
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from deepfusion_edge.errors import ModelError, UnreachableError, UsageError
from deepfusion_toolkit.engines.base import (
    C,
    Done,
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

STORE_BYTES = 256 << 20
"""Shared memory of a local cluster; a result is some images."""
ANSWER_S = 10.0
"""Seconds that a cluster has to answer."""
PRIVATE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # also on Linux: a node's address is the loopback
}
"""Environment of a local cluster, read when Ray is imported."""


class RayCluster:
    """Workers that a Ray cluster places; see ``base.Engine``."""

    name = "ray"

    def __init__(
        self, workers: int | None = None, device: str = "cpu", address: str | None = None
    ) -> None:
        if address is not None and workers is None:
            raise UsageError(
                "--ray-address without --workers", "say how many the cluster is to run"
            )
        count = cores() if device == "cpu" else max(1, torch.cuda.device_count())
        self.workers, self.device, self.address = workers or count, device, address
        self.threads = 1 if address is not None else max(1, cores() // self.workers)

    def run(
        self,
        job: Job[C, R],
        chunks: Sequence[C],
        *,
        threads: int,
        notify: Notify,
        here: Callable[[], Work[C, R]],  # noqa: ARG002 - for the engine that is here
    ) -> Generator[tuple[C, R]]:
        """See ``base.Engine.run``.

        Raises:
            ModelError: Ray is not installed.
            UnreachableError: no cluster answers at the address.
            UsageError: the cluster is too small.
        """
        workers = min(self.workers, len(chunks))
        gpus = int(self.device != "cpu")
        with _connected(self.address, workers * threads) as ray:
            there = ray.cluster_resources()
            for kind, needed in (("CPU", threads), ("GPU", gpus)):
                if there.get(kind, 0) < workers * needed:
                    raise UsageError(
                        f"the Ray cluster has {there.get(kind, 0):g} {kind}s, {workers} workers "
                        f"need {workers * needed}",
                        "lower --workers or --threads",
                    )
            crew = _Actors(ray, job, self.device, threads, gpus)
            yield from share_out(crew, workers, chunks, job.names, notify)


class _Worker:
    """An actor; its job is unpickled after its path is the parent's."""

    def __init__(self, job: bytes, device: str, threads: int, path: list[str]) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        torch.set_num_threads(threads)
        self._job, self._device = job, device
        self._work: Work[Any, Any] | None = None

    def open(self) -> Event:
        opened = attempt(lambda _notify: pickle.loads(self._job).open(self._device))  # noqa: S301 - the parent's own
        if isinstance(opened, Done):
            self._work = opened.result
            return Ready()
        return opened

    def work(self, chunk: object) -> Event:
        work = self._work
        if work is None:
            return Failed(RuntimeError("a worker got a chunk before it was ready"))
        return attempt(lambda notify: work(chunk, notify))


class _Actors:
    """A crew of actors; Ray does not restart them, ``share_out`` does."""

    def __init__(
        self,
        ray: Any,  # noqa: ANN401 - the module
        job: Job[Any, Any],
        device: str,
        threads: int,
        gpus: int,
    ) -> None:
        self._ray = ray
        self._made = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0)(_Worker)
        path = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100 - '' too
        self._start_with = (pickle.dumps(job), device, threads, path)
        self._actors: list[Any] = []
        self._pending: dict[Any, int] = {}

    def start(self) -> int:
        self._actors.append(actor := self._made.remote(*self._start_with))
        self._pending[actor.open.remote()] = len(self._actors) - 1
        return len(self._actors) - 1

    def give(self, worker: int, chunk: object) -> None:
        self._pending[self._actors[worker].work.remote(chunk)] = worker

    def wait(self) -> tuple[int, Event]:
        (reference,), _ = self._ray.wait(list(self._pending), num_returns=1)
        worker = self._pending.pop(reference)
        try:
            event: Event = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            return worker, Lost(_reason(error))
        return worker, event

    def stop(self) -> None:
        for actor in self._actors:
            with suppress(Exception):  # it, or the cluster, is gone
                self._ray.kill(actor)


@contextmanager
def _connected(address: str | None, cpus: int) -> Iterator[Any]:
    if address is None:
        os.environ.update(PRIVATE)
    ray = _library()
    if ray.is_initialized():  # the caller's own
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            _require_listening(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                **quiet,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise UnreachableError(
            f"no Ray cluster at {address or 'this machine'} ({_reason(error)})",
            "check --ray-address, or leave it out to start one here",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Ray itself knocks for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), ANSWER_S).close()


def _library() -> Any:  # noqa: ANN401 - the module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own deprecations, not the user's
            import ray
    except ImportError as error:
        raise ModelError(
            f"the engine ray needs Ray ({error})", "pip install deepfusion-toolkit[ray]"
        ) from error
    return ray


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
