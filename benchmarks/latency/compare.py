"""Two results of the latency benchmark beside each other: ratios, which another machine keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deepfusion_edge.errors import InputError
from deepfusion_toolkit.report.sections import Cell
from deepfusion_toolkit.timing import Timing

if TYPE_CHECKING:
    from benchmarks.latency.measure import Run

COLUMNS = ["subject", "runtime", "threads", "what", "ratio before", "ratio now", "change %"]
_REMEDY = "give a JSON file that this command wrote"


class _Run(msgspec.Struct):
    subject: str
    provider: str
    threads: int
    variants: dict[str, Timing]


class Before(msgspec.Struct):
    """What is read of an earlier result."""

    schema: int
    runs: list[_Run]


def read(path: Path) -> Before:
    """Read an earlier result.

    Raises:
        InputError: it is none.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Before)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", _REMEDY) from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{path} is no latency result ({error})", _REMEDY) from error
    return found


def rows(before: Before, now: "Sequence[Run]") -> list[list[Cell]]:
    """Everything that both have."""
    old = {(r.subject, r.provider, r.threads): r.variants for r in before.runs}
    found: list[list[Cell]] = []
    for run in now:
        known = old.get((run.subject, run.provider, run.threads), {})
        for name, timing in run.variants.items():
            if name in known:
                was = known[name].ratio
                change = 100 * (timing.ratio / was - 1)
                found.append(
                    [
                        *(run.subject, run.provider, run.threads, name),
                        *(f"{was:.3f}", f"{timing.ratio:.3f}", f"{change:+.1f}"),
                    ]
                )
    return found
