"""The part ``faults``: power cuts, kills, one fault after the other, kills at random moments."""

import argparse
import logging
from argparse import Namespace
from collections import Counter
from pathlib import Path

from benchmarks.agent import faults as kills
from benchmarks.agent.rig import bundle_of
from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults import broker, claim, clock, hanging, killed, power, storage
from benchmarks.prove.result import Part, Row

FAULTS = (*storage.FAULTS, *clock.FAULTS, *broker.FAULTS, *hanging.FAULTS)
_MEMBERS = 2
_KILLS, _RESTARTS = 25, 25


def measure(options: argparse.Namespace, work: Path) -> Part:
    """Bring all faults about.

    Args:
        options: ``short`` leaves most of the kills at random moments out; ``seed`` is of these.
        work: new folder.
    """
    maker = Maker(bundle_of("small", _MEMBERS, work).path, work / "bundles")
    quiet = logging.NullHandler()
    log = logging.getLogger("deepfusion_edge")
    log.addHandler(quiet)  # what is seen stands in the rows
    try:
        found = [
            power.rows(maker, work / "power"),
            killed.rows(maker, work / "killed"),
            claim.rows(FAULTS, maker, work / "faults"),
        ]
    finally:
        log.removeHandler(quiet)
    found.append(_random(options, work))
    figures: Counter[str] = Counter()
    for _, some in found:
        figures.update(some)
    return Part(tuple(row for rows, _ in found for row in rows), dict(figures))


def _random(options: argparse.Namespace, work: Path) -> tuple[list[Row], dict[str, int]]:
    count = 2 if options.short else _KILLS
    restarts = 1 if options.short else _RESTARTS
    wanted = Namespace(members=_MEMBERS, kills=count, restarts=restarts, seed=options.seed)
    (work / "random").mkdir()
    seen = kills.measure(wanted, work / "random")
    trouble = {name: seen[name] for name in ("lost", "duplicated_after_ids", "reordered")}
    failed = int(any(trouble.values()))
    told = ", ".join(f"{name} {value}" for name, value in trouble.items())
    row = Row(
        f"Agent killed {count} times and broker restarted {restarts} times at random moments:"
        " every stored decision arrives once, in order",
        "failed" if failed else "held",
        f"{seen['stored']} events stored, {told}",
        "one delivery, in tests of the count",
    )
    return [row], {"fault_points": count + restarts, "faults_failed": failed}
