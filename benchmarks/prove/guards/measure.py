"""Takes each guard out of the product; a case of the corpus that rests on it must fail then."""

import argparse
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.prove.guards.catalogue import GROUPS, GUARDS
from benchmarks.prove.hostile import KINDS, pool
from benchmarks.prove.result import Part, Row
from deepfusion_toolkit.report import progress

SHORT = 12
_REFUSED = re.compile(r"exit code|status (refused|failed)|alert|state refused|refused|log: not")
"""How an answer begins that is a refusal still."""


class Taken(NamedTuple):
    """What happened without a guard.

    Attributes:
        fails: the case that failed; empty: none did, the guard survived.
        how: what it did then.
        backed: whether another guard refused it then, for another reason; else it was taken, it
            crashed or hung.
    """

    guard: str
    fails: str
    how: str
    backed: bool = False


def measure(options: argparse.Namespace, work: Path) -> Part:
    """Take all guards out, or a dozen of them for a short proof."""
    names = sample(options.seed, SHORT) if options.short else tuple(GUARDS)
    with progress("guards", len(names)) as advance:
        taken = {}
        for one in without_each(names, work):
            taken[one.guard] = one
            advance(1)
    rows = tuple(_row(group, [taken[n] for n in GROUPS[group] if n in taken]) for group in GROUPS)
    surviving = [one for one in taken.values() if not one.fails]
    return Part(
        tuple(row for row in rows if row is not None),
        {"guards_mutated": len(taken), "guards_surviving": len(surviving)},
    )


def sample(seed: int, count: int) -> tuple[str, ...]:
    """Draw guards, always the same ones for a seed."""
    return tuple(random.Random(seed).sample(sorted(GUARDS), count))  # noqa: S311 - a choice


def without_each(names: Sequence[str], work: Path) -> Iterator[Taken]:
    """Take guards out one by one and run the cases that rest on each.

    Args:
        names: of guards.
        work: an empty folder.
    """
    resting: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for kind in KINDS:
        for case in pool.cases_of(kind):
            resting[case.guard].append((kind, case.name))
    for at, name in enumerate(names):
        yield _without(name, resting[name], work / f"guard-{at:03d}")


def _without(name: str, cases: Sequence[tuple[str, str]], work: Path) -> Taken:
    wanted = pool.Wanted(
        kinds=tuple(dict.fromkeys(kind for kind, _ in cases)),
        names=frozenset(case for _, case in cases),
        guard=GUARDS[name],
        stop=True,
    )
    try:
        for outcome in pool.run(wanted, work):
            if outcome.problem:
                backed = _REFUSED.match(outcome.said) is not None
                return Taken(name, f"{outcome.kind}: {outcome.name}", outcome.problem[:300], backed)
    except pool.GroupError as error:
        return Taken(name, "", f"the cases did not run: {error}")
    return Taken(name, "", GUARDS[name].spare or "no case noticed")


def _row(group: str, taken: Sequence[Taken]) -> Row | None:
    if not taken:
        return None
    surviving = [one for one in taken if not one.fails]
    backed = sum(one.backed for one in taken)
    lines = tuple(
        f"{one.guard}: {one.fails} - {one.how}" if one.fails else f"{one.guard}: {one.how}"
        for one in taken
    )
    return Row(
        f"{group}: a case fails without each guard",
        "failed" if any(not GUARDS[one.guard].spare for one in surviving) else "held",
        f"{len(taken) - len(surviving)} of {len(taken)} ({backed} backed by another guard)",
        ", ".join(one.guard for one in surviving),
        lines,
    )
