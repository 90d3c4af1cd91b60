"""One part after the other; what a part found stays in the JSON until it is proved again."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import parts as parts_of
from benchmarks.latency import page as machine_page
from benchmarks.prove import page
from benchmarks.prove.faults import measure as faults
from benchmarks.prove.fuzz import measure as fuzz
from benchmarks.prove.guards import measure as guards
from benchmarks.prove.hostile import measure as hostile
from benchmarks.prove.result import Part
from benchmarks.prove.small import measure as small
from benchmarks.prove.soak import measure as soak
from benchmarks.prove.supply import measure as supply
from deepfusion_edge.errors import InputError
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.report import table, write_html

MEASURES: Mapping[str, Callable[[argparse.Namespace, Path], Part]] = {
    "hostile": hostile.measure,
    "guards": guards.measure,
    "fuzz": fuzz.measure,
    "faults": faults.measure,
    "small": small.measure,
    "soak": soak.measure,
    "supply": supply.measure,
}
"""Part -> function of the options and a new working folder."""
FIGURES = (
    "hostile_cases",
    "hostile_failed",
    "byte_mutations",
    "byte_mutations_accepted",
    "fault_points",
    "faults_failed",
    "guards_mutated",
    "guards_surviving",
    "fuzz_draws",
    "fuzz_failures",
)
"""Figures of ``summary``; a figure is the sum over the parts that give it, None if none does."""
_SCHEMA = 1


def run(options: argparse.Namespace) -> int:
    """Prove the parts that are asked for, or missing; returns the exit code."""
    parts = {} if not options.json.exists() else _read(options.json)
    parts_of.run(options, MEASURES, parts, lambda: _write(options.json, parts))
    found = summary(parts)
    html = options.html or options.json.with_suffix(".html")
    write_html(html, page.make(parts, found, machine_page.machine()))
    rows = [
        (part, row.claim, row.state, row.seen, row.guard)
        for part, found in parts.items()
        for row in found.rows
    ]
    table("the proof", ("part", "claim", "state", "seen", "fails without"), rows)
    return int(any(row[2] == "failed" for row in rows))


def summary(parts: Mapping[str, Part]) -> dict[str, Any]:
    """Gather the figures that goals are stated for, and what this machine could not show."""
    figures: dict[str, Any] = {}
    for key in FIGURES:
        given = [part.figures[key] for part in parts.values() if key in part.figures]
        figures[key] = sum(given) if given else None
    figures["not_possible_here"] = [
        f"{row.claim}: {row.seen}"
        for part in parts.values()
        for row in part.rows
        if row.state == "not possible"
    ]
    return figures


def _read(path: Path) -> dict[str, Part]:
    try:
        found = json.loads(path.read_bytes())
        if found["schema"] != _SCHEMA:
            raise InputError(f"{path} has schema {found['schema']}", "give another --json")
        return {name: Part.from_json(part) for name, part in found["parts"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no result of this command", "give another --json") from error


def _write(path: Path, parts: Mapping[str, Part]) -> None:
    result = {
        "schema": _SCHEMA,
        "summary": summary(parts),
        "machine": machine_page.machine(),
        "parts": {name: part.to_json() for name, part in parts.items()},
    }
    write_bytes(path, json.dumps(result, indent=1).encode() + b"\n")
