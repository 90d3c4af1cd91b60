"""Processes that are killed before their n-th operation on the disk, for every n there is."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults.disk import changes_names
from benchmarks.prove.faults.power import STATE, recover
from benchmarks.prove.faults.procedures import Procedure, all_procedures
from benchmarks.prove.result import Row
from deepfusion_toolkit.report import progress

_FAILED = 1


def kill_everywhere(procedure: Procedure, work: Path) -> tuple[int, list[str]]:
    """Kill the procedure before each operation in turn, and recover each time.

    Args:
        procedure: done in a process of its own.
        work: new folder.

    Returns:
        How many times it was killed, and what went wrong, a line each.
    """
    failures: list[str] = []
    kills = 0
    while True:
        state = work / f"{kills:04}" / STATE
        state.parent.mkdir(parents=True)
        procedure.prepare(state)
        ending = _killed_at(procedure, state, kills)
        if ending == 0:
            wrong = recover(procedure, state, over=True)
            return kills, [*failures, *([f"at its end: {wrong}"] if wrong else [])]
        if ending != -signal.SIGKILL:
            return kills, [*failures, f"it ended with {ending}"]
        wrong = recover(procedure, state, over=False)
        if wrong:
            failures.append(f"{procedure.name}, killed before operation {kills}: {wrong}")
        kills += 1


def rows(maker: Maker, work: Path) -> tuple[list[Row], dict[str, int]]:
    """Kill all procedures everywhere."""
    found, points, failed = [], 0, 0
    procedures = all_procedures(maker)
    with progress("kills", len(procedures)) as advance:
        for number, one in enumerate(procedures):
            kills, failures = kill_everywhere(one, work / str(number))
            points += kills
            failed += len(failures)
            seen = f"killed {kills} times, recovered each time"
            if failures:
                seen = f"{len(failures)} of {kills} failed; {failures[0]}"
            claim = (
                f"Killed before every operation, {one.name}: one whole bundle, then the same end"
            )
            guard = "as with power cuts, where each guard is taken out"
            found.append(Row(claim, "failed" if failures else "held", seen, guard))
            advance(1)
    return found, {"fault_points": points, "faults_failed": failed}


def _killed_at(procedure: Procedure, state: Path, number: int) -> int:
    """Do it in a forked process that dies before operation ``number``; returns how it ended."""
    child = os.fork()
    if child == 0:
        code = _FAILED
        try:
            _die_before(number)
            procedure.act(state)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_before(number: int) -> None:
    left = [number]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if changes_names(event, arguments):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(hear)
