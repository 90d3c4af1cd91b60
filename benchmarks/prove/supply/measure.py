"""The part ``supply``: bills of materials, pinned versions, wheels, secrets."""

import argparse
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.agent.rig import bundle_of
from benchmarks.prove.faults.claim import BrokenError, NotPossibleError, need
from benchmarks.prove.result import Part, Row
from benchmarks.prove.supply import audit, wheels
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.container import pack
from deepfusion_edge.bundle.manifest import MANIFEST, MAX_SBOM_BYTES, SBOM, parse_manifest
from deepfusion_edge.errors import DeepFusionError, TrustError
from deepfusion_edge.line import utc_now


def measure(_options: argparse.Namespace, work: Path) -> Part:
    """Look at a bundle, the pins and the wheels.

    Args:
        work: new folder.
    """
    made = bundle_of("small", 2, work)
    bundle, key = made.path, made.key
    rows = [
        _row("Every bundle has a signed bill of materials", lambda: _bill(bundle)),
        _row(
            "A bill of materials that was changed is refused", lambda: _changed(bundle, key, work)
        ),
        _row(
            "Every bundle says what it was made with, and how it was checked",
            lambda: _origin(bundle),
        ),
        _row("No pinned version has a known vulnerability", _advisories),
    ]
    mutated = surviving = 0
    for name, folder in wheels.WHEELS.items():
        place = work / name
        row = _row(
            f"Two builds of the wheel {name} have the same bytes",
            lambda folder=folder, place=place: _wheel(folder, place),  # type: ignore[misc]
            "the builder's fixed times",
        )
        rows.append(row)
        mutated += row.state != "not possible"
        surviving += "also without" in row.seen
    figures = {"guards_mutated": mutated, "guards_surviving": surviving}
    return Part(tuple(rows), figures)


def _row(claim: str, show: Callable[[], str], guard: str = "") -> Row:
    try:
        return Row(claim, "held", show(), guard)
    except NotPossibleError as error:
        return Row(claim, "not possible", str(error), guard)
    except (BrokenError, DeepFusionError) as error:
        return Row(claim, "failed", str(error), guard)


def _bill(bundle: Path) -> str:
    with zipfile.ZipFile(bundle) as archive:
        manifest, content = parse_manifest(archive.read(MANIFEST)), archive.read(SBOM)
    need(SBOM in {file.path for file in manifest.files}, "the manifest does not name it")
    need(len(content) <= MAX_SBOM_BYTES, f"{len(content)} bytes")
    found = json.loads(content)
    names = {one["name"] for one in found["components"]}
    need(
        {"torch", "onnx", "numpy", "deepfusion-edge"} & names >= {"torch", "onnx", "numpy"}, "gaps"
    )
    return f"CycloneDX {found['specVersion']}, {len(names)} components, {len(content)} bytes"


def _changed(bundle: Path, key: Path, work: Path) -> str:
    with zipfile.ZipFile(bundle) as archive:
        parts: dict[str, bytes | Path] = {name: archive.read(name) for name in archive.namelist()}
        content = archive.read(SBOM)
    other = work / "changed.dfb"
    pack(other, {**parts, SBOM: content.replace(b"torch", b"porch")})
    try:
        store.verify(other, [key], now=utc_now(), probe=False)
    except TrustError as error:
        return error.what
    need(holds=False, otherwise="it was accepted")
    return ""


def _origin(bundle: Path) -> str:
    with zipfile.ZipFile(bundle) as archive:
        told = parse_manifest(archive.read(MANIFEST)).provenance
    wanted = {"version_torch", "version_python", "model_sha256", "plan_sha256", "parity_cases"}
    need(wanted <= set(told), f"{wanted - set(told)} is missing")
    cases = told["parity_cases"]
    return f"{len(told)} entries: versions, hashes of weights and plan, {cases} parity cases"


def _advisories() -> str:
    try:
        found = audit.audit()
    except DeepFusionError as error:
        raise NotPossibleError(
            f"{error.what}; 'make audit' does it where there is a network"
        ) from error
    told = ", ".join(f"{one.package} {one.version} {one.name}" for one in found)
    need(not found, told)
    return "none known"


def _wheel(folder: str, work: Path) -> str:
    first, second = wheels.twice(folder, work / "as it is")
    need(first == second, f"{first[:12]} and {second[:12]}")
    other = wheels.twice(folder, work / "without", reproducible=False)
    if other[0] == other[1]:
        raise BrokenError("the same bytes also without the builder's fixed times")
    return f"SHA-256 {first[:12]} both times; without: {other[0][:12]} and {other[1][:12]}"
