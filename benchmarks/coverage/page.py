"""The coverage table as JSON and as a page of the documents."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.coverage import figures
from benchmarks.coverage.catalogue import CLASSES
from benchmarks.coverage.laws import TOLERANCE
from benchmarks.coverage.measure import Row
from deepfusion_export.parity import TOLERANCES

_LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")


_HEAD = """\
# Which architectures can be eroded, exported and run

Made by `make coverage` (`python -m benchmarks coverage`), not by hand.

**{share}.** Random weights, {classes} classes, small images; {libraries}.

- **sites**: skips + activations + norms that surgery finds. All of them are eroded at once for the
  next two columns.
- **waits**: how many of them are multiplied behind a pooling that alone reads them, where the map
  is smaller and the result the same. {waits}
- **all ones**, **together**: the largest difference of a probability between the original network
  and all-ones factors, and between K members at once and one by one; at most {laws:g}. Moreover,
  every single factor has to change the output; a network with one that does not has failed.
- **ONNX Runtime**: the largest difference of a member's probability from torch, K = 1 and 3, with
  four sites of each kind eroded, the first and the last included; at most {parity:g}. Torch runs
  without oneDNN there, whose convolutions round more (`export/deepfusion_export/parity.py`).
- **TensorRT**: what `deepfusion-export lint` finds in its rules for 10.3 and 11. Nothing was built
  or run with TensorRT for this table.

Random weights hide mistakes (norms that start at zero, closed rectifiers), so norms and layer
scales are drawn anew and each layer's biases are set from the images: every channel is felt.

| family | network | pixels | M weights | sites | waits | all ones | together | ONNX Runtime \
| TensorRT |
|---|---|---:|---:|---:|---:|---:|---:|---:|---|"""


def as_json(rows: Sequence[Row]) -> bytes:
    """Everything that was measured, and with which libraries."""
    return figures.as_json(rows, _LIBRARIES)


def read(path: Path) -> dict[str, Row]:
    """The rows of an earlier run by their spec; none if there was none.

    Raises:
        InputError: the file is no coverage file.
    """
    return {row.spec: row for row in figures.read(path, Row, "coverage")}


def as_markdown(rows: Sequence[Row], unmeasured: Sequence[str] = ()) -> str:
    """The page: how it was measured, the table, what failed, and what has no row."""
    passed = [row for row in rows if row.passed]
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    families = len({row.family for row in rows})
    lines = [
        _HEAD.format(
            share=f"{len(passed)} of {len(rows)} networks of {families} families pass",
            classes=CLASSES,
            libraries=libraries,
            waits=_waits(rows),
            laws=TOLERANCE,
            parity=TOLERANCES["members"].absolute,
        )
    ]
    lines += [_line(row) for row in rows]
    failed = [row for row in rows if not row.passed]
    if failed:
        lines += ["", "## What fails, and why", ""]
        lines += [f"- `{row.spec}`: {row.failure}" for row in failed]
    if unmeasured:
        lines += ["", "## Listed, but not measured", "", ", ".join(f"`{s}`" for s in unmeasured)]
    objections = sorted({text for row in rows for text in row.tensorrt or ()})
    if objections:
        lines += ["", "## What the rules for TensorRT say", ""]
        lines += [f"- {text}" for text in objections]
    return "\n".join(lines) + "\n"


def _waits(rows: Sequence[Row]) -> str:
    counts = [row.waiting for row in rows if row.waiting is not None]
    some, most = sum(map(bool, counts)), max(counts, default=0)
    return f"{some} of {len(counts)} networks have such a site, {most} at most."


def _line(row: Row) -> str:
    sites = " + ".join(map(str, row.sites)) if row.sites else "-"
    cells = [
        row.family,
        f"`{row.spec}`",
        str(row.side),
        f"{row.millions:.1f}",
        sites,
        "-" if row.waiting is None else str(row.waiting),
        _figure(row.unchanged),
        _figure(row.together),
        _figure(row.onnx),
        _verdict(row),
    ]
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _verdict(row: Row) -> str:
    if row.tensorrt is None:
        return "not checked"
    refused = sum(" refuses: " in text for text in row.tensorrt)
    warned = len(row.tensorrt) - refused
    parts = [f"{refused} refused"] * bool(refused) + [f"{warned} warned of"] * bool(warned)
    return ", ".join(parts) or "no objection"
