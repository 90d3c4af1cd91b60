"""The page of the proof: what held, what was seen, and everything it is made of."""

from collections.abc import Mapping
from typing import Any

from benchmarks.prove.result import Part
from deepfusion_toolkit.report import Figure, Figures, Section, Settings, Table, Text, page

WORDS = {
    "hostile_cases": "hostile cases",
    "hostile_failed": "not refused",
    "byte_mutations": "changes of a byte",
    "byte_mutations_accepted": "accepted",
    "fault_points": "fault points",
    "faults_failed": "not survived",
    "guards_mutated": "guards taken out",
    "guards_surviving": "not noticed",
    "fuzz_draws": "inputs fuzzed",
    "fuzz_failures": "failed on",
}
_INTRODUCTION = (
    "Hostile input is generated case by case and handed to the doors of the product, each case in a"
    " process of its own. Guards are taken out of the product one by one: a case must fail then, so"
    " that nothing passes by doing nothing. Fuzzing looks for what nobody thought of.\n\n"
    "A row is not possible where this machine cannot show it; it says why."
)


def make(parts: Mapping[str, Part], figures: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """Summary, a table a part, what each row is made of, and the machine.

    Args:
        parts: as measured, by name.
        figures: ``summary`` of the JSON.
        machine: what it ran on.
    """
    rows = [row for part in parts.values() for row in part.rows]
    held = sum(row.state == "held" for row in rows)
    failed = sum(row.state == "failed" for row in rows)
    items = [
        Figure("claims held", f"{held} of {len(rows)}", tone="bad" if failed else "good"),
        *(
            Figure(words, f"{figures[name]:,}", tone=_tone(name, figures[name]))
            for name, words in WORDS.items()
            if figures.get(name) is not None
        ),
    ]
    sections: list[Section] = [Figures(items), Text(_INTRODUCTION)]
    for name, part in parts.items():
        table = [(row.claim, row.state, row.seen, row.guard) for row in part.rows]
        sections.append(
            Table(
                ["claim", "state", "seen", "fails without, or what survived"], table, heading=name
            )
        )
    for name, part in parts.items():
        sections += [
            Table(
                ["what was tried, and what came of it"],
                [(line,) for line in row.lines],
                heading=f"{name}: {row.claim}",
            )
            for row in part.rows
            if row.lines
        ]
    sections.append(Settings(dict(machine), heading="The machine"))
    return page("The proof", sections)


def _tone(name: str, value: int) -> Any:  # noqa: ANN401 - a literal of the report
    if name.endswith(("_failed", "_accepted", "_surviving", "_failures")):
        return "bad" if value else "good"
    return "plain"
