"""Power cuts at every operation of every procedure, and the guards that this rests on."""

import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults.claim import BrokenError
from benchmarks.prove.faults.disk import Disk, fingerprint, without_fsync
from benchmarks.prove.faults.procedures import Procedure, all_procedures
from benchmarks.prove.result import Row
from deepfusion_edge.bundle import history, layout, proving, store
from deepfusion_edge.bundle.probation import Record
from deepfusion_edge.commands import ledger
from deepfusion_edge.errors import DeepFusionError
from deepfusion_toolkit.report import progress

STATE = "state"


class Walked(NamedTuple):
    """How one procedure stood it.

    Attributes:
        points: moments times images.
        failures: one line each.
    """

    points: int
    failures: list[str]


class Guard(NamedTuple):
    """Something that is taken out to see the claim fail.

    Attributes:
        name: for people.
        out: a context in which it is gone.
        shown_by: name of the procedure that cannot do without it.
    """

    name: str
    out: Callable[[], AbstractContextManager[object]]
    shown_by: str


def walk(
    procedure: Procedure,
    work: Path,
    guard: Callable[[], AbstractContextManager[object]] = ExitStack,
    *,
    to_the_end: bool = True,
) -> Walked:
    """Do the procedure once, and recover from each image of each of its moments.

    Args:
        procedure: what is cut short.
        work: new folder.
        guard: a context in which it is done, not prepared and not recovered from.
        to_the_end: whether to look on after the first failure.
    """
    place = work / "disk"
    place.mkdir(parents=True)
    procedure.prepare(place / STATE)
    with Disk(place, work / "images") as disk, guard():
        procedure.act(place / STATE)
    seen: dict[tuple[str, bool], str] = {}
    failures = []
    for moment in disk.moments:
        over = moment is disk.moments[-1]
        for kind, folder in moment.images.items():
            key = fingerprint(folder), over
            if key not in seen:
                seen[key] = recover(procedure, folder / STATE, over=over)
            if seen[key]:
                failures.append(f"{procedure.name}, before {moment.operation}, {kind}: {seen[key]}")
                if not to_the_end:
                    return Walked(3 * len(disk.moments), failures)
    return Walked(3 * len(disk.moments), failures)


def rows(maker: Maker, work: Path) -> tuple[list[Row], dict[str, int]]:
    """Walk all procedures, then those that show what each guard is for."""
    procedures = {one.name: one for one in all_procedures(maker)}
    found, points, failed, surviving = [], 0, 0, 0
    with progress("power cuts", len(procedures) + len(GUARDS)) as advance:
        for number, one in enumerate(procedures.values()):
            walked = walk(one, work / f"cut-{number}")
            points += walked.points
            failed += len(walked.failures)
            seen = f"{walked.points} points, all recovered"
            if walked.failures:
                seen = f"{len(walked.failures)} of {walked.points} failed; {walked.failures[0]}"
            guards = ", ".join(guard.name for guard in GUARDS if guard.shown_by == one.name)
            claim = f"Power cut at every operation, {one.name}: one whole bundle, then the same end"
            found.append(Row(claim, "failed" if walked.failures else "held", seen, guards))
            advance(1)
        for number, guard in enumerate(GUARDS):
            broken = without(guard, procedures[guard.shown_by], work / f"guard-{number}")
            seen = f"noticed: {broken[0]}" if broken else "nothing was noticed"
            surviving += not broken
            claim = f"Without {guard.name}, power cuts do harm"
            found.append(Row(claim, "held" if broken else "failed", seen, guard.name))
            advance(1)
    figures = {"fault_points": points, "faults_failed": failed}
    return found, figures | {"guards_mutated": len(GUARDS), "guards_surviving": surviving}


def without(guard: Guard, procedure: Procedure, work: Path) -> list[str]:
    """Take a guard out; returns the first harm, if any."""
    return walk(procedure, work, guard.out, to_the_end=False).failures


def recover(procedure: Procedure, state: Path, *, over: bool) -> str:
    """Return what is wrong, or nothing."""
    try:
        procedure.check(state, over)
    except (BrokenError, DeepFusionError, OSError) as error:
        return str(error).replace(f"{state}/", "") or type(error).__name__
    return ""


def _in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _link_in_two_steps(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _sweep_all(state: Path) -> None:
    with patch.object(layout, "PREVIOUS", "nothing"):
        layout.sweep(state)


def _no_record(_state: Path, _record: Record) -> None:
    return


def _patched(name: str, value: object, *modules: object) -> Callable[[], ExitStack]:
    def out() -> ExitStack:
        stack = ExitStack()
        for module in modules:
            stack.enter_context(patch.object(module, name, value))
        return stack

    return out


_KEPT, _BY_HAND = "kept after probation", "installation by hand"
_PROBATION = "installation and swap on probation"
GUARDS = (
    Guard("fsync of files", lambda: without_fsync(of=stat.S_ISREG), "first installation"),
    Guard("fsync of folders", lambda: without_fsync(of=stat.S_ISDIR), "first installation"),
    Guard(
        "links replaced by rename",
        _patched("replace_link", _link_in_two_steps, store, proving),
        _BY_HAND,
    ),
    Guard(
        "files replaced by rename",
        _patched("replace_file", _in_place, layout, ledger, history),
        "a command taken, begun and ended",
    ),
    Guard(
        "the old bundle kept until the new one is",
        _patched("sweep", _sweep_all, store),
        _BY_HAND,
    ),
    Guard(
        "probation written down before the swap",
        _patched("save_probation", _no_record, store),
        _PROBATION,
    ),
    Guard(
        "highest sequence recorded",
        _patched("record_highest", _no_record, proving),
        "rolled back after an installation cut short",
    ),
)
"""Each with the procedure that shows it."""
