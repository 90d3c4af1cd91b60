"""One fault, what must hold, and the guard that is taken out to see it break."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from benchmarks.prove.bundles import Maker
from benchmarks.prove.result import Row
from deepfusion_edge.errors import DeepFusionError


class BrokenError(AssertionError):
    """A claim did not hold; says what was seen."""


class NotPossibleError(Exception):
    """This machine cannot show it; says why."""


class Fault(NamedTuple):
    """A fault that is brought about, once as things are and once without a guard.

    Attributes:
        fault, must: for people.
        guard: what is taken out.
        show: of the bundles and a new folder; returns what was seen, or raises BrokenError.
        out: a context in which the guard is gone.
    """

    fault: str
    must: str
    guard: str
    show: Callable[[Maker, Path], str]
    out: Callable[[], AbstractContextManager[object]]


def need(holds: bool, otherwise: str) -> None:
    """Raise BrokenError unless the claim holds."""
    if not holds:
        raise BrokenError(otherwise)


def rows(faults: Sequence[Fault], maker: Maker, work: Path) -> tuple[list[Row], dict[str, int]]:
    """Bring each fault about twice; returns a row each, and the figures."""
    from deepfusion_toolkit.report import progress

    found, figures = [], {"fault_points": 0, "faults_failed": 0}
    figures |= {"guards_mutated": 0, "guards_surviving": 0}
    with progress("faults", len(faults)) as advance:
        for number, fault in enumerate(faults):
            row = _row(fault, maker, work / f"fault-{number}", figures)
            found.append(row)
            advance(1)
    return found, figures


def _row(fault: Fault, maker: Maker, work: Path, figures: dict[str, int]) -> Row:
    claim = f"{fault.fault}: {fault.must}"
    (work / "as it is").mkdir(parents=True)
    (work / "without").mkdir()
    try:
        seen = fault.show(maker, work / "as it is")
    except NotPossibleError as error:
        return Row(claim, "not possible", str(error), fault.guard)
    except (BrokenError, DeepFusionError, OSError) as error:
        figures["fault_points"] += 1
        figures["faults_failed"] += 1
        return Row(claim, "failed", str(error), fault.guard)
    figures["fault_points"] += 1
    figures["guards_mutated"] += 1
    try:
        with fault.out():
            fault.show(maker, work / "without")
    except Exception as error:  # noqa: BLE001 - however it breaks, it is noticed
        return Row(claim, "held", f"{seen}; without: {error or type(error).__name__}", fault.guard)
    figures["guards_surviving"] += 1
    figures["faults_failed"] += 1
    return Row(claim, "failed", f"{seen}; but nothing was noticed without", fault.guard)
