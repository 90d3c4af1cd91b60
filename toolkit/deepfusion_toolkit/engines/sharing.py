"""The one loop that shares chunks out among workers, and replaces those that are lost."""

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from deepfusion_edge.console import error_from_os
from deepfusion_edge.errors import DeepFusionError, UnreachableError
from deepfusion_toolkit.engines.base import C, Crew, Done, Failed, Notify, Ready

TRIES = 3
"""Workers that may be lost on one chunk, or in a row before they are ready."""
SHOWN = 3
"""Images that an error names."""


class DefectError(RuntimeError):
    """A defect of this program that showed in a worker; the text is the worker's traceback."""


def attempt(work: Callable[[Notify], object]) -> Done | Failed:
    """Call work in a worker; its errors become values that can be sent."""
    notes: list[str] = []
    try:
        return Done(work(notes.append), notes)
    except DeepFusionError as error:
        return Failed(error)
    except OSError as error:
        return Failed(error_from_os(error))
    except Exception:  # noqa: BLE001 - others need not survive pickling
        return Failed(DefectError(f"in a worker:\n{traceback.format_exc()}"))


def share_out(
    crew: Crew[C],
    workers: int,
    chunks: Sequence[C],
    names: Callable[[C], list[str]],
    notify: Notify,
) -> Generator[tuple[C, Any]]:
    """Give chunks to workers that are ready; replace lost ones; see ``Engine.run``."""
    waiting, tries, stillborn = deque(range(len(chunks))), [0] * len(chunks), 0
    starting: set[int] = set()
    idle: list[int] = []
    busy: dict[int, int] = {}
    try:
        while waiting or busy:
            wanted = min(workers, len(waiting) + len(busy))
            while len(starting) + len(idle) + len(busy) < wanted:
                starting.add(crew.start())
            while idle and waiting:
                busy[worker := idle.pop()] = waiting.popleft()
                crew.give(worker, chunks[busy[worker]])
            worker, event = crew.wait()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Ready):
                starting.discard(worker)
                idle.append(worker)
                stillborn = 0
            elif isinstance(event, Done):
                idle.append(worker)
                for note in event.notes:
                    notify(note)
                at = busy.pop(worker)
                yield chunks[at], event.result
            elif worker in busy:
                waiting.appendleft(at := busy.pop(worker))
                tries[at] += 1
                _give_up(tries[at], event.why, names(chunks[at]))
                notify(f"a worker was lost ({event.why}), its images are given to another")
            else:
                stillborn += worker in starting
                starting.discard(worker)
                idle = [other for other in idle if other != worker]
                _give_up(stillborn, event.why, [])
    finally:
        crew.stop()


def _give_up(lost: int, why: str, names: Iterable[str]) -> None:
    if lost < TRIES:
        return
    files = list(names)
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    where = f"on {', '.join(files[:SHOWN])}{more}" if files else "before any was ready"
    raise UnreachableError(
        f"{lost} workers were lost {where} ({why})",
        "give them more memory or a smaller --batch; what is finished stays, see --resume",
    )
