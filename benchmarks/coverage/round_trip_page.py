"""The table of ONNX files as JSON and as a page of the documents."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.coverage import figures
from benchmarks.coverage.round_trip import Row
from deepfusion_export.parity import TOLERANCES

_LIBRARIES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")
_HEAD = """\
# ONNX files of timm's networks, there and back

Made by `python -m benchmarks onnx-files`, not by hand; what an ONNX file may be is said in
[your own ONNX file](onnx.md).

**{share}.** Random weights, 10 classes, sizes of images as in the [coverage table](coverage.md);
{libraries}.

Each network is written to a file by three exporters of torch: TorchScript (opset 17) for one image
and for a free batch, and the newer one (opset 20) for a free batch. The file is taken in, which
holds its scores against ONNX Runtime's; sites of each kind are eroded, the first and the last
included; `deepfusion-export bundle` makes a signed bundle of it.

- **network**, **file**: skips + activations + norms that surgery finds in the network itself, and
  in the file. Norms are fewer, because an exporter folds them into convolutions.
- **bundle**: the largest difference of a member's probability among torch, ONNX Runtime and numpy,
  as the command reports it; at most {parity:g}, or nothing is written.

| network | written by | network | file | bundle |
|---|---|---|---|---:|"""


def as_json(rows: Sequence[Row]) -> bytes:
    """Everything that was measured, and with which libraries."""
    return figures.as_json(rows, _LIBRARIES)


def read(path: Path) -> dict[str, Row]:
    """The rows of an earlier run by their name; none if there was none.

    Raises:
        InputError: the file is none of this command.
    """
    return {row.name: row for row in figures.read(path, Row, "ONNX files")}


def as_markdown(rows: Sequence[Row], unmeasured: Sequence[str] = ()) -> str:
    """The page: how it was measured, the table, what is refused, and what has no row."""
    packed = [row for row in rows if row.parity is not None]
    networks = len({row.network for row in rows})
    share = f"{len(packed)} of {len(rows)} files of {networks} networks became a bundle"
    other = [row.name for row in packed if not row.same]
    if other:
        share += f"; {len(other)} of them with other skips or activations than the network"
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    parity = TOLERANCES["members"].absolute
    lines = [_HEAD.format(share=share, libraries=libraries, parity=parity)]
    lines += [
        f"| `timm:{row.network}` | {row.exporter} | {_sites(row.sites)} | {_sites(row.found)} |"
        f" {'-' if row.parity is None else f'{row.parity:.1e}'} |"
        for row in rows
    ]
    if len(packed) < len(rows):
        lines += ["", "## What is refused, in the words that a user sees", ""]
        lines += [f"- {row.name}: {row.failure}" for row in rows if row.parity is None]
    if unmeasured:
        lines += ["", "## Listed, but not measured", "", "; ".join(unmeasured)]
    return "\n".join(lines) + "\n"


def _sites(counts: tuple[int, int, int] | None) -> str:
    return "-" if counts is None else " + ".join(map(str, counts))
