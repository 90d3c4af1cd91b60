"""Runs the corpus: each case alone in a process, some of them against an agent that runs."""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.prove.hostile import KINDS, pool
from benchmarks.prove.result import Part, Row
from deepfusion_edge.console import one_line
from deepfusion_toolkit.report import progress

if TYPE_CHECKING:
    from benchmarks.prove.hostile.case import Outcome


def measure(options: argparse.Namespace, work: Path) -> Part:
    """Run all cases; a short proof leaves the running agent out."""
    from benchmarks.prove.hostile import live

    outcomes = []
    with progress("hostile", sum(len(pool.cases_of(kind)) for kind in KINDS)) as advance:
        for outcome in pool.run(pool.Wanted(), work / "cases"):
            outcomes.append(outcome)
            advance(1)
    rows = [row_of(kind, [one for one in outcomes if one.kind == kind]) for kind in KINDS]
    rows.append(_limits(outcomes))
    figures = {
        "hostile_cases": len(outcomes),
        "hostile_failed": sum(bool(one.problem) for one in outcomes),
    }
    if not options.short:
        met = live.measure(work / "agent")
        rows.append(met.row)
        figures["hostile_cases"] += met.cases
        figures["hostile_failed"] += met.failed
    return Part(tuple(rows), figures)


def row_of(kind: str, outcomes: Sequence["Outcome"]) -> Row:
    """Put the cases of one kind into words."""
    failed = [one for one in outcomes if one.problem]
    told = Counter(_way(one) for one in outcomes if not one.problem)
    ways = ", ".join(f"{count} {way}" for way, count in told.most_common())
    guards = {one.guard for one in outcomes if one.guard}
    return Row(
        f"{KINDS[kind]}: refused, or handled as documented",
        "failed" if failed else "held",
        f"{len(outcomes) - len(failed)} of {len(outcomes)} ({ways})",
        f"{len(guards)} guards",
        tuple(map(_line, outcomes)),
    )


def _limits(outcomes: Iterable["Outcome"]) -> Row:
    slowest = max(outcomes, key=lambda one: one.seconds)
    largest = max(outcomes, key=lambda one: one.bytes)
    return Row(
        "within 5 s and 512 MB each; nothing written elsewhere; the same bundle serves on",
        "failed" if slowest.problem or largest.problem else "held",
        f"at most {slowest.seconds:.1f} s and {largest.bytes / 2**20:.0f} MB",
        "",
        (
            f"{slowest.seconds:.2f} s: {slowest.kind}: {slowest.name}",
            f"{largest.bytes / 2**20:.0f} MB: {largest.kind}: {largest.name}",
        ),
    )


def _way(outcome: "Outcome") -> str:
    """Say how the product told of it."""
    first = outcome.said.split(maxsplit=1)[0].rstrip(":") if outcome.said else ""
    ways = {"exit": "by an error", "status": "by a status", "alert": "by an alert"}
    return ways.get(first, "by its answer or log")


def _line(outcome: "Outcome") -> str:
    guard = outcome.guard or "no code that would do it"
    said = one_line(outcome.said)[:300]
    problem = f"FAILED, {outcome.problem}: " if outcome.problem else ""
    return f"{outcome.name} [{guard}]: {problem}{said}"
