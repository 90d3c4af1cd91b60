"""Tables, Markdown and the page of the latency benchmark."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.latency import compare
from deepfusion_edge.errors import InputError
from deepfusion_toolkit.report import page
from deepfusion_toolkit.report.sections import (
    Cell,
    Curve,
    Curves,
    Section,
    Settings,
    Table,
    Text,
)
from deepfusion_toolkit.threats.ablation import FormRow

if TYPE_CHECKING:
    from benchmarks.latency.measure import Run

COLUMNS = ["what", "p50 ms", "p95 ms", "p99 ms", "ratio", "p95 ratio", "floor", "predicted"]


class _Threats(msgspec.Struct):
    ablation: list[FormRow]


def forms_of(path: Path) -> list[FormRow]:
    """Forms of a defence with their latency and robust accuracy.

    Raises:
        InputError: the file is no evaluation, or one without forms.
    """
    remedy = "give the JSON of: deepfusion evaluate --threat"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Threats).ablation
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", remedy) from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{path} is no evaluation of threats ({error})", remedy) from error
    if not found:
        raise InputError(f"{path} compares no forms", remedy)
    return found


def title(run: "Run", rounds: int) -> str:
    """Heading of a run's table."""
    threads = {0: "all threads", 1: "1 thread"}.get(run.threads, f"{run.threads} threads")
    return (
        f"{run.subject}, {run.provider}, {threads}: {rounds} interleaved rounds, "
        "ratios to the plain model"
    )


def rows(run: "Run") -> list[list[Cell]]:
    """Variants, then stages, then the cold start."""
    from benchmarks.latency.measure import GOAL, together

    floors = {together(k): f"{floor:.3f}" for k, floor in run.floors.items()}
    predicted = {together(k): f"{cost:.3f}" for k, cost in run.predicted.items()}
    found: list[list[Cell]] = [
        [
            name,
            *(f"{ms:.2f}" for ms in (t.median_ms, t.p95_ms, t.p99_ms)),
            f"{t.ratio:.3f}",
            f"{t.ratio_p95:.3f}",
            floors.get(name, ""),
            predicted.get(name, ""),
        ]
        for name, t in run.variants.items()
    ]
    stages, cold = run.stages, run.cold
    few, rest = ("",) * 2, ("",) * 3
    found.append(["camera frame to input", f"{stages.preprocess_ms:.2f}", *few, "", *rest])
    for name, ratio in (
        ("common part", stages.prefix),
        (f"own part of {GOAL}", stages.tail),
        ("fusion and scores", stages.fuse),
    ):
        found.append([name, "", *few, f"{ratio:.3f}", *rest])
    found.append(["load and first answer", f"{1000 * cold.first_answer_s:.0f}", *few, "", *rest])
    if cold.peak_memory_mib is not None:
        found.append([f"peak memory {cold.peak_memory_mib:.0f} MiB", "", *few, "", *rest])
    return found


def words(figures: Mapping[str, Mapping[str, float] | float | None]) -> list[list[Cell]]:
    """The summary, a row a figure."""
    found: list[list[Cell]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found += [[f"{name} of {who}", f"{one:.3f}"] for who, one in value.items()]
        else:
            found.append([name, "-" if value is None else f"{value:.3f}"])
    return found


def markdown(runs: "Sequence[Run]", rounds: int) -> str:
    """All tables, for a README."""
    parts = []
    for run in runs:
        lines = [f"### {title(run, rounds)}", "", f"| {' | '.join(COLUMNS)} |"]
        lines.append("|" + "---|" * len(COLUMNS))
        lines += [f"| {' | '.join(map(str, row))} |" for row in rows(run)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def make(
    runs: "Sequence[Run]",
    figures: Mapping[str, Mapping[str, float] | float | None],
    result: Mapping[str, object],
    changes: Sequence[Sequence[Cell]],
    forms: Sequence[FormRow],
) -> str:
    """Plots, tables, summary, comparison and machine."""
    sections: list[Section] = [
        Text(
            "One graph computes what all members have in common once. Ratios are to one run of the "
            "plain model in the same round; the arithmetic floor counts multiply-adds alone, "
            "the predicted cost also counts the factors' own multiplications."
        )
    ]
    if forms:
        attacks = list(dict.fromkeys(name for form in forms for name in form.robust))
        kinds = list(dict.fromkeys(form.form for form in forms))
        for attack in attacks:
            curves = [
                Curve(
                    kind,
                    sorted(
                        (form.latency, form.robust[attack].value)
                        for form in forms
                        if form.form == kind and attack in form.robust
                    ),
                    strong="eroded" in kind,
                )
                for kind in kinds
            ]
            sections.append(
                Curves(
                    [curve for curve in curves if curve.points],
                    "plain inferences, as measured",
                    heading=f"Robust accuracy against latency: {attack}",
                )
            )
    sections.append(Table(["figure", "value"], words(figures), heading="Summary"))
    rounds = result["rounds"]
    assert isinstance(rounds, int)  # noqa: S101 - an option
    sections += [Table(COLUMNS, rows(run), heading=title(run, rounds)) for run in runs]
    if changes:
        sections.append(Table(compare.COLUMNS, changes, heading="Against an earlier result"))
    facts: dict[str, object] = {
        k: v for k, v in result.items() if isinstance(v, (str, int, list, tuple, dict))
    }
    facts |= {k: ", ".join(map(str, v)) or "-" for k, v in facts.items() if isinstance(v, list)}
    facts |= machine()
    left_out = {"runs", "summary", "machine"}
    sections.append(Settings({k: v for k, v in facts.items() if k not in left_out}))
    return page("Latency of members", sections)


def machine() -> dict[str, str | int | None]:
    """What the figures were measured on."""
    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "onnxruntime", "torch")},
    }
