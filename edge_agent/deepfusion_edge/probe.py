"""The golden probe: ``python -m deepfusion_edge.probe DIR`` answers with one line of JSON.

Started by ``bundle.trial`` for a bundle whose signature and hashes were verified; it limits itself,
loads the model, runs ``golden/probe.json`` and compares. Exit code 0, or the error's.
"""

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from deepfusion_edge import erosion, fusion
from deepfusion_edge.bundle.manifest import (
    GOLDEN,
    MALFORMED,
    MANIFEST,
    MODEL,
    Golden,
    Manifest,
    parse_manifest,
)
from deepfusion_edge.errors import DeepFusionError, InputError, ModelError
from deepfusion_edge.fusion import FusionRule, Outputs
from deepfusion_edge.image import probe_image
from deepfusion_edge.runtime.base import Session

_REPLACE = "export the bundle again; this device computes something else than its maker did"


class Answer(msgspec.Struct):
    """What the probe prints: the verdict, why, and the figures."""

    ok: bool
    what: str = ""
    remedy: str = ""
    provider: str = ""
    difference: float | None = None
    load_s: float | None = None
    run_s: float | None = None


def read_golden(data: bytes, manifest: Manifest) -> Golden:
    """Read ``golden/probe.json``.

    Raises:
        ModelError: it is malformed or does not fit the manifest.
    """
    try:
        golden = msgspec.json.decode(data, type=Golden)
    except MALFORMED as error:
        raise ModelError(f"{GOLDEN} is not valid: {error}", _REPLACE) from error
    if len(golden.fused) != len(manifest.classes):
        raise ModelError(
            f"{GOLDEN} has {len(golden.fused)} probabilities for {len(manifest.classes)} classes",
            _REPLACE,
        )
    return golden


def compare(outputs: Outputs, golden: Golden, tolerance: float, rule: FusionRule) -> float:
    """Return the largest difference to the golden outputs.

    Three things are compared: the fused probabilities; the fused probabilities with the members
    fused by the reference rule; the feature variance, relative to itself where it is above 1.

    Raises:
        ModelError: a difference above the tolerance, or another number of classes.
    """
    if len(outputs.fused) != len(golden.fused):
        raise ModelError(
            f"the model has {len(outputs.fused)} classes, the manifest {len(golden.fused)}",
            _REPLACE,
        )
    variance = abs(outputs.feature_variance - golden.feature_variance)
    differences = {
        "fused probabilities": float(np.abs(outputs.fused - np.array(golden.fused)).max()),
        "members by the reference rule": float(
            np.abs(outputs.fused - fusion.fuse(outputs.members, rule)).max()
        ),
        "feature variance": variance / max(1.0, abs(golden.feature_variance)),
    }
    for name, difference in differences.items():
        if not difference <= tolerance:
            raise ModelError(
                f"golden probe: {name} differ by {difference:.3g}, tolerance {tolerance:g}",
                _REPLACE,
            )
    return max(differences.values())


def probe(session: Session, golden: Golden, manifest: Manifest) -> float:
    """Run the golden probe on a loaded session; returns the largest difference.

    Raises:
        ModelError: the model fails or differs.
    """
    sites = manifest.erosion.sites
    factors = erosion.sample(sites, seed=golden.factor_seed, stream=0, members=golden.members)
    outputs = session.run(probe_image(golden.image_seed, manifest.preprocess), factors)
    if len(outputs.members) != golden.members * manifest.erosion.bases:
        raise ModelError(
            f"the model fuses {len(outputs.members)} members for {golden.members} rows of factors,"
            f" the manifest names {manifest.erosion.bases} bases",
            _REPLACE,
        )
    return compare(outputs, golden, manifest.tolerance, manifest.fusion)


def _limit(memory_bytes: int) -> None:
    """Cap the address space and switch core dumps off, within what the system already imposes."""
    for kind, wanted in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)  # noqa: PLW2901 - the same limit, lowered
        resource.setrlimit(kind, (wanted, wanted))


def _answer(directory: Path, memory_bytes: int) -> Answer:
    _limit(memory_bytes)
    try:
        manifest = parse_manifest((directory / MANIFEST).read_bytes())
        golden = read_golden((directory / GOLDEN).read_bytes(), manifest)
        model = (directory / MODEL).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {directory}: {error.strerror}", "give a bundle") from error
    from deepfusion_edge.runtime.ort import OrtSession

    start = time.perf_counter()
    session = OrtSession(model, threads=1)
    loaded = time.perf_counter()
    difference = probe(session, golden, manifest)
    return Answer(
        ok=True,
        provider=session.provider,
        difference=difference,
        load_s=round(loaded - start, 4),
        run_s=round(time.perf_counter() - loaded, 4),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the probe, print the answer, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deepfusion_edge.probe", description=__doc__)
    parser.add_argument("directory", type=Path, help="the members of a verified bundle")
    parser.add_argument("--memory-bytes", type=int, default=4 * 2**30, help="address space limit")
    options = parser.parse_args(arguments)
    try:
        answer, code = _answer(options.directory, options.memory_bytes), 0
    except DeepFusionError as error:
        answer, code = Answer(ok=False, what=error.what, remedy=error.remedy), error.exit_code
    except MemoryError:
        what = f"the golden probe needs more than {options.memory_bytes} bytes of memory"
        answer, code = Answer(ok=False, what=what, remedy="export a smaller model"), 4
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
