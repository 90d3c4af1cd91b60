"""One part after the other; what a part measured stays in the JSON until it is measured again."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import parts as parts_of
from benchmarks.agent import delivery, faults, memory, speed, start
from benchmarks.agent.command import PARTS
from benchmarks.latency import page
from deepfusion_edge.errors import InputError
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.report import table

Part = Callable[[argparse.Namespace, Path], dict[str, Any]]

MEASURES: Mapping[str, Part] = {
    "speed": speed.measure,
    "start": start.measure,
    "outbox": delivery.outbox,
    "drain": delivery.drain,
    "memory": memory.measure,
    "faults": faults.measure,
}
GOALS = {
    "fps_over_bare": ("speed", ">= 0.95"),
    "p99_over_p50": ("speed", "<= 1.3"),
    "outbox_events_per_s": ("outbox", ">= 2000"),
    "drain_over_paho": ("drain", ">= 0.8"),
    "rss_growth": ("memory", "<= 0.05"),
    "first_verdict_s": ("start", "<= 3"),
    "kills": ("faults", "100"),
    "broker_restarts": ("faults", "50"),
    "lost": ("faults", "0"),
    "duplicated_after_ids": ("faults", "0"),
    "reordered": ("faults", "0"),
}
"""Figures of ``summary``: where they come from, and what they are to reach."""
_SCHEMA = 1


def run(options: argparse.Namespace) -> int:
    """Measure the parts that are asked for, or missing; returns the exit code."""
    parts = {} if not options.json.exists() else _read(options.json)
    measures = {part: _on_this_machine(MEASURES[part]) for part in PARTS}
    parts_of.run(options, measures, parts, lambda: _write(options.json, parts))
    figures = summary(parts)
    rows = [(key, figures[key], goal) for key, (_, goal) in GOALS.items()]
    table("the agent", ("figure", "measured", "goal"), [tuple(map(_word, row)) for row in rows])
    return 0


def _on_this_machine(part: Part) -> Part:
    return lambda options, work: part(options, work) | {"machine": page.machine()}


def summary(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Gather the figures that goals are stated for; None is not measured."""
    return {key: parts.get(part, {}).get(key) for key, (part, _) in GOALS.items()}


def _word(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if found["schema"] != _SCHEMA:
            raise InputError(f"{path} has schema {found['schema']}", "give another --json")
        parts: dict[str, Any] = found["parts"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no result of this command", "give another --json") from error
    return parts


def _write(path: Path, parts: Mapping[str, Any]) -> None:
    result = {"schema": _SCHEMA, "summary": summary(parts), "parts": parts}
    write_bytes(path, json.dumps(result, indent=1).encode() + b"\n")
