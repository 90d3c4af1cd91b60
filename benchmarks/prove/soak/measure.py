"""The part ``soak``: a year in an hour at most, or a week in half a minute."""

import argparse
import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.agent.faults import judge
from benchmarks.agent.rig import bundle_of, photographs
from benchmarks.prove.bundles import Maker
from benchmarks.prove.result import Part, Row, State
from benchmarks.prove.soak import page
from benchmarks.prove.soak.calendar import WEEK, YEAR, Day, days
from benchmarks.prove.soak.plant import Plant, Sample
from benchmarks.prove.soak.year import Year, live
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.report import progress

PAGE = "soak.html"
_BUDGET_S, _SHORT_S = 3000.0, 20.0
_PER_SECOND = 12.0
_FLAT, _SHORT_FLAT = 0.1, 0.5
"""How much may be added from the first tenth to the last; a week is too short to tell much."""
_WARM_UP = 0.1


class Claim(NamedTuple):
    """Something that holds of the year, or does not.

    Attributes:
        text: for people.
        judge: returns what was seen, and what is wrong with it, if anything.
        guard: how what was seen is changed to see the claim fail.
        spoil: does that.
    """

    text: str
    judge: Callable[[Year], tuple[str, str]]
    guard: str
    spoil: Callable[[Year], Year]


def measure(options: argparse.Namespace, work: Path) -> Part:
    """Live through a year, or with ``short`` a week, and write the page beside the JSON.

    Args:
        options: ``json`` names the folder of the page; ``seed`` draws the pictures.
        work: new folder.
    """
    count, budget_s = (WEEK, _SHORT_S) if options.short else (YEAR, _BUDGET_S)
    maker = Maker(bundle_of("small", 2, work).path, work / "web")
    pictures = photographs(16, (64, 64), seed=options.seed)
    calendar = days(count)
    with (
        Plant(maker, work / "plant", pictures, _PER_SECOND) as plant,
        progress("days", count) as advance,
    ):
        seen = live(plant, maker, calendar, budget_s, advance)
    part = judged(seen, calendar, _SHORT_FLAT if options.short else _FLAT)
    text = page.page(part, seen.samples, calendar)
    write_bytes(options.json.with_name(PAGE), text.encode())
    return part


def judged(seen: Year, calendar: Sequence[Day], flat: float) -> Part:
    """Judge every claim as it was seen, and spoiled."""
    rows, surviving = [], 0
    claims = all_claims(calendar, flat)
    for claim in claims:
        told, wrong = claim.judge(seen)
        missed = not claim.judge(claim.spoil(seen))[1]
        surviving += missed
        told += "; but the check notices nothing" if missed else ""
        state: State = "failed" if wrong or missed else "held"
        rows.append(Row(claim.text, state, f"{told}; {wrong}" if wrong else told, claim.guard))
    figures = {"guards_mutated": len(claims), "guards_surviving": surviving}
    return Part(tuple(rows), figures)


def all_claims(calendar: Sequence[Day], flat: float) -> tuple[Claim, ...]:
    """List what must hold of these days."""
    updates = sum(day.update for day in calendar)
    bad = sum(day.bad is not None for day in calendar)

    def counts(seen: Year) -> tuple[str, str]:
        found = judge(seen.bodies, seen.stored)
        decisions = len({json.loads(body)["id"] for body in seen.bodies if b'"seed"' in body})
        told = f"{seen.given} frames, {len(seen.stored)} events stored, {found['arrived']} arrived"
        told += f", {found['delivered_twice']} twice"
        trouble = [
            f"{name} {found[name]}"
            for name in ("lost", "duplicated_after_ids", "reordered", "unknown")
            if found[name]
        ]
        if decisions != seen.given:
            trouble.append(f"{decisions} decisions for {seen.given} frames")
        return told, ", ".join(trouble + [one for one in seen.trouble if "outbox" in one])

    def installed(seen: Year) -> tuple[str, str]:
        told = f"{len(calendar)} outages, {len(seen.updates)} bundles kept"
        wrong = [one for one in seen.trouble if one.startswith("update")]
        if len(seen.updates) != updates:
            wrong.append(f"{updates} were sent")
        return told, ", ".join(wrong)

    def refused(seen: Year) -> tuple[str, str]:
        told = "; ".join(f"{what}: {_short(how)}" for what, how in dict(seen.refused).items())
        wrong = [one for one in seen.trouble if one.startswith("a bundle that")]
        if len(seen.refused) != bad:
            wrong.append(f"{bad} were tried, {len(seen.refused)} ended")
        return f"{len(seen.refused)} refused or rolled back ({told})", ", ".join(wrong)

    def flat_in(name: str, unit: str) -> Callable[[Year], tuple[str, str]]:
        def look(seen: Year) -> tuple[str, str]:
            first, last = tenths([float(getattr(one, name)) for one in seen.samples])
            grown = last / first - 1 if first else 0.0
            told = f"{first:,.1f} {unit} at first, {last:,.1f} {unit} at last ({grown:+.1%})"
            return told, f"more than {flat:.0%}" if grown > flat else ""

        return look

    return (
        Claim(
            "Counts in are counts out: every frame is decided, every decision arrives once by its"
            " id, in order",
            counts,
            "one decision that arrived",
            lambda seen: _with(seen, bodies=_without_one(seen.bodies)),
        ),
        Claim(
            f"Every update from afar is kept ({updates}), with an outage every day",
            installed,
            "one update",
            lambda seen: _with(seen, updates=seen.updates[1:]),
        ),
        Claim(
            f"No bad bundle stays in service ({bad})",
            refused,
            "one refusal",
            lambda seen: _with(seen, refused=seen.refused[1:]),
        ),
        Claim(
            "Memory is flat",
            flat_in("rss_mib", "MiB"),
            "the level: it is made to grow",
            lambda seen: _with(seen, samples=_growing(seen.samples)),
        ),
        Claim(
            "Files are flat",
            flat_in("files_kib", "KiB"),
            "the level: it is made to grow",
            lambda seen: _with(seen, samples=_growing(seen.samples)),
        ),
    )


def tenths(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and the last tenth after the warm-up."""
    warm = values[int(_WARM_UP * len(values)) :]
    tenth = max(1, len(warm) // 10)
    return statistics.median(warm[:tenth]), statistics.median(warm[-tenth:])


def _short(reason: str) -> str:
    """The first part of a reason, without folders."""
    return re.sub(r"\S*/", "", reason.partition(";")[0])


def _with(seen: Year, **changes: object) -> Year:
    return Year(**{**vars(seen), **changes})


def _without_one(bodies: Sequence[bytes]) -> list[bytes]:
    gone = next(body for body in bodies if b'"seed"' in body)
    return [body for body in bodies if body != gone]


def _growing(samples: Sequence[Sample]) -> list[Sample]:
    return [
        one._replace(rss_mib=one.rss_mib * (1 + at), files_kib=one.files_kib * (1 + at))
        for at, one in enumerate(samples)
    ]
