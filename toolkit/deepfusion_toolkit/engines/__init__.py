"""Where work runs: in this process, in several of this machine, or on a Ray cluster."""

from collections.abc import Callable

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.engines.base import Engine, Job, Notify, Work
from deepfusion_toolkit.engines.local import Local, threads_of
from deepfusion_toolkit.engines.processes import Processes
from deepfusion_toolkit.engines.ray_cluster import RayCluster

ENGINES: dict[str, Callable[[int | None, str, str | None], Engine]] = {
    "local": lambda _workers, _device, _address: Local(),
    "processes": lambda workers, device, _address: Processes(workers, device),
    "ray": RayCluster,
}


def engine_for(
    name: str, workers: int | None = None, device: str = "cpu", address: str | None = None
) -> Engine:
    """Choose an engine by its name; nothing is started yet.

    Args:
        name: one of ``ENGINES``.
        workers: how many; None: one for each core, or each GPU.
        device: of torch; with ``cuda``, each worker has a GPU of its own in turn.
        address: of a Ray cluster; None: one is started here, and ended.

    Raises:
        UsageError: the options contradict each other.
    """
    if name not in ENGINES:
        raise UsageError(f"there is no engine '{name}'", f"give one of {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, is {workers}", "change --workers")
    if name == "local" and workers not in {None, 1}:
        raise UsageError(
            f"--workers {workers} with the engine local", "give --engine processes or --engine ray"
        )
    if name != "ray" and address is not None:
        raise UsageError(f"--ray-address with the engine {name}", "give --engine ray")
    return ENGINES[name](workers, device, address)


def announced(engine: Engine, threads: int) -> str:
    """Say where the work is done."""
    many = "" if engine.workers == 1 else "s"
    return f"engine {engine.name}, {engine.workers} worker{many}, threads of each: {threads}"


__all__ = [
    "ENGINES",
    "Engine",
    "Job",
    "Local",
    "Notify",
    "Processes",
    "RayCluster",
    "Work",
    "announced",
    "engine_for",
    "threads_of",
]
