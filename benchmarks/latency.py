"""What K members cost as a ratio to the plain model, with K separate runs beside it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from deepfusion_edge.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepfusion_edge.bundle.manifest import Manifest
    from deepfusion_edge.fusion import Array
    from deepfusion_edge.runtime.base import Session
    from deepfusion_toolkit.timing import Timing

MEMBERS = (1, 4, 8, 16)
PLAIN = "plain model"
_TOLERANCE = 1e-4
_SCHEMA = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--bundle", type=Path, required=True, metavar="LINE.DFB")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="KEY.PUB",
        help="verify the bundle first; without it only its form is checked",
    )
    parser.add_argument(
        "--model",
        metavar="SPEC",
        help="the (one) exported model, as plain model; else the bundle's graph without erosion,"
        " which runs every base once",
    )
    parser.add_argument("--rounds", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=1, help="of ONNX Runtime (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Measure, print a table, write the JSON file.

    Raises:
        UsageError: a count below 1.
        DeepFusionError: the bundle or the model cannot be used.
    """
    for name in ("rounds", "threads"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} {getattr(options, name)}", "give at least 1")
    import msgspec

    from deepfusion_toolkit.files import write_bytes
    from deepfusion_toolkit.report import progress, table
    from deepfusion_toolkit.timing import interleaved

    manifest, graph = _read(options.bundle, options.trust)
    variants = _variants(manifest, graph, options.model, options.threads)
    with progress("timing", options.rounds + 3) as advance:
        timings = interleaved(variants, base=PLAIN, rounds=options.rounds, after_round=advance)
    share = manifest.provenance.get("prefix_share")
    floor = {
        f"{k} members, one graph": 1 + (k - 1) * (1 - float(share))
        for k in MEMBERS
        if share is not None
    }
    title = (
        f"{manifest.id} {manifest.sequence}: medians of {options.rounds} interleaved rounds,"
        f" {options.threads} thread{'s' if options.threads > 1 else ''}, ratios to the plain model"
    )
    columns = ("what", "median ms", "p95 ms", "ratio", "p95 ratio", "arithmetic floor")
    table(title, columns, [(n, *t, floor.get(n, "")) for n, t in timings.items()])
    result = {
        "schema": _SCHEMA,
        "bundle": {"id": manifest.id, "sequence": manifest.sequence, "bytes": len(graph)},
        "verified": bool(options.trust),
        "plain_model": options.model or "the bundle's graph without erosion",
        "input": [manifest.preprocess.height, manifest.preprocess.width],
        "prefix_share": share,
        "rounds": options.rounds,
        "threads": options.threads,
        "machine": _machine(),
        "variants": {name: _words(t, floor.get(name)) for name, t in timings.items()},
    }
    write_bytes(options.json, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 0


def _read(bundle: Path, trust: list[Path]) -> "tuple[Manifest, bytes]":
    """Read manifest and graph; the signature is checked only where keys are given."""
    import tempfile

    from deepfusion_edge.agent import utc_now
    from deepfusion_edge.bundle import store
    from deepfusion_edge.bundle.container import open_bundle
    from deepfusion_edge.bundle.manifest import MODEL, parse_manifest
    from deepfusion_edge.bundle.onnx_check import check_onnx

    if trust:
        store.verify(bundle, trust, now=utc_now(), probe=False)
    with tempfile.TemporaryDirectory() as name, open_bundle(bundle) as source:
        manifest = parse_manifest(source.manifest)
        source.copy(manifest.files, Path(name))
        graph = Path(name, MODEL).read_bytes()
    check_onnx(graph)
    return manifest, graph


def _variants(
    manifest: "Manifest", graph: bytes, spec: str | None, threads: int
) -> "dict[str, Callable[[], object]]":
    from functools import partial

    import numpy as np

    from deepfusion_edge import erosion
    from deepfusion_edge.runtime.ort import OrtSession

    size = (manifest.preprocess.height, manifest.preprocess.width)
    sites = manifest.erosion.sites
    pixels = erosion.uniform(0, 0, 3 * size[0] * size[1]).astype(np.float32)
    image: Array = pixels.reshape(1, 3, *size)
    session = OrtSession(graph, threads=threads)
    plain = _plain_session(_plain_graph(graph, erosion.width(sites), spec, size), threads)
    clean = session.run(image, erosion.identity(sites, 1)).members
    difference = float(np.abs(plain(image) - clean).max())
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"the plain model differs by {difference:.3g} from the bundle without erosion",
            "give the --model that the bundle was exported from",
        )
    variants: dict[str, Callable[[], object]] = {PLAIN: lambda: plain(image)}
    for k in MEMBERS:
        factors = erosion.sample(sites, seed=0, stream=k, members=k)
        variants[f"{k} members, one graph"] = partial(session.run, image, factors)
    for k in MEMBERS[1:]:
        factors = erosion.sample(sites, seed=0, stream=k, members=k)
        rows = [factors[i : i + 1] for i in range(k)]
        variants[f"{k} runs of one member"] = partial(_one_by_one, session, image, rows)
    k = manifest.erosion.members
    variants[f"drawing {k} rows of factors"] = lambda: erosion.sample(
        sites, seed=1, stream=0, members=k
    )
    return variants


def _one_by_one(session: "Session", image: "Array", rows: "list[Array]") -> None:
    for factors in rows:
        session.run(image, factors)


def _plain_graph(graph: bytes, width: int, spec: str | None, size: tuple[int, int]) -> bytes:
    if spec is None:
        from benchmarks.plain import without_erosion

        return without_erosion(graph, width)
    from deepfusion_export.onnx import plain_to_onnx
    from deepfusion_toolkit import models

    model = models.load(spec)
    if model.size != size:
        raise ModelError(
            f"{model.name} takes {model.size[0]}x{model.size[1]}, the bundle {size[0]}x{size[1]}",
            "give the --model that the bundle was exported from",
        )
    return plain_to_onnx(model.core, model.size, model.name)


def _plain_session(graph: bytes, threads: int) -> "Callable[[Array], Array]":
    """Load a graph with one input and one output [B, C], with the device's settings."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())

    def call(image: "Array") -> "Array":
        (output,) = session.run(None, {name: image})
        rows: Array = output
        return rows

    return call


def _machine() -> dict[str, str | int | None]:
    import os
    import platform
    from importlib.metadata import version

    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "onnxruntime", "torch")},
    }


def _words(timing: "Timing", floor: float | None) -> dict[str, float]:
    words = {name: round(value, 5) for name, value in timing._asdict().items()}
    return words if floor is None else {**words, "arithmetic_floor": round(floor, 5)}
