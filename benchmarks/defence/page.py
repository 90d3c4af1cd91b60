"""The tables and the page of the defence benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deepfusion_toolkit.report import page, threat_tables
from deepfusion_toolkit.report.sections import Cell, Section, Settings, Table, Text

if TYPE_CHECKING:
    from benchmarks.defence.measure import Found

COLUMNS = [
    "threat", "attack", "eps", "images", "undefended %", "defended %", "of clean %", "worst draw %",
    "wrong and accepted %", "flagged %", "AUROC",
]  # fmt: skip


def number(value: float | None) -> str:
    """A figure, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def rows(one: Found) -> list[list[Cell]]:
    """Every attacker at every budget."""
    found = [*one.threats.rows, *(one.close.rows if one.close else ())]
    return [
        [
            row.threat,
            row.attack,
            f"{row.eps:g}",
            row.images,
            _percent(row.undefended.value),
            _percent(row.robust.value),
            _percent(ratio(row.robust.value, row.clean.value)),
            _percent(row.worst.value),
            _percent(row.harm.value),
            _percent(row.flagged.value),
            f"{row.detection[0].auroc:.3f}",
        ]
        for row in found
    ]


def make(
    found: Sequence[Found], figures: Mapping[str, float | None], result: Mapping[str, object]
) -> str:
    """Tables, summary and settings of one run."""
    sections: list[Section] = [
        Text(
            "Attackers craft on nets that hardening never saw. Undefended is the target before "
            "hardening, on the same attacked images. AUROC is that of the feature variance, "
            "attacked against all clean test images."
        )
    ]
    for one in found:
        clean = one.threats.clean
        said = (
            f"Clean test images: {clean.images}. Undefended {_percent(clean.undefended.value)} %, "
            f"defended {_percent(clean.fused.value)} %, flagged {_percent(clean.flagged.value)} %."
        )
        sections += [Text(said, one.name), Table(COLUMNS, rows(one))]
        if one.threats.adaptive:
            sections.append(Table(*threat_tables.policy(one.threats)[1:3]))
        sections += [Text(doubt) for doubt in one.threats.warnings]
    sections.append(Settings({k: number(v) for k, v in figures.items()}, "Summary"))
    facts = {k: v for k, v in result.items() if isinstance(v, (str, int, list)) and k != "data"}
    sections.append(Settings(facts))
    return page("The defence against what it has not seen", sections)


def ratio(part: float, whole: float) -> float | None:
    """What is kept of an accuracy; None where there was none."""
    return part / whole if whole else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
