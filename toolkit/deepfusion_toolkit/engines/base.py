"""What an engine is and what crosses its border.

A job is pickled and opened once in each worker; chunks go there and results come back as they are
finished. Only the parent writes files.
"""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

C = TypeVar("C")
R = TypeVar("R")
C_contra = TypeVar("C_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Notify = Callable[[str], None]
Work = Callable[[C, Notify], R]


class Job(Protocol[C_contra, R_co]):
    """What is to be done, small and picklable."""

    def open(self, device: str) -> Callable[[C_contra, Notify], R_co]:
        """Load what the work needs; called once in each worker."""

    def names(self, chunk: C_contra) -> list[str]:
        """Images of a chunk, for an error."""


class Engine(Protocol):
    """Where a job runs."""

    @property
    def name(self) -> str:
        """What a user calls it."""

    @property
    def workers(self) -> int:
        """How many work at once."""

    @property
    def threads(self) -> int:
        """Torch's threads of each, where nobody asks for another number."""

    def run(
        self,
        job: Job[C, R],
        chunks: Sequence[C],
        *,
        threads: int,
        notify: Notify,
        here: Callable[[], Work[C, R]],
    ) -> Generator[tuple[C, R]]:
        """Do every chunk once; whoever closes the generator ends the workers.

        Args:
            job: opened by each worker.
            chunks: picklable.
            threads: of torch in each worker; results may depend on it in their last bits.
            notify: gets what workers have to say.
            here: opens the same job in this process, with the models that are loaded already.

        Yields:
            Chunk and result, as they are finished.

        Raises:
            UnreachableError: a chunk lost ``sharing.TRIES`` workers, or none gets ready.
            DeepFusionError: whatever the work raised.
        """


@dataclass(frozen=True)
class Ready:
    """A worker has opened the job."""


@dataclass(frozen=True)
class Done:
    """A chunk is finished."""

    result: Any
    notes: list[str]


@dataclass(frozen=True)
class Failed:
    """The work raised an error, which is the parent's now."""

    error: Exception


@dataclass(frozen=True)
class Lost:
    """A worker is gone."""

    why: str


Event = Ready | Done | Failed | Lost


class Crew(Protocol[C_contra]):
    """Workers of one engine, known by their numbers."""

    def start(self) -> int:
        """Start one; its first event is ``Ready`` or an error."""

    def give(self, worker: int, chunk: C_contra) -> None:
        """Hand a chunk to a worker that has none."""

    def wait(self) -> tuple[int, Event]:
        """Return the next event of any worker; after ``Lost`` it has no other."""

    def stop(self) -> None:
        """End all workers."""


def cores() -> int:
    """Count the processors that this process may use."""
    with suppress(AttributeError):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
