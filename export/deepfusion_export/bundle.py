"""From a classifier and its plan to one signed file, checked as the device will check it."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deepfusion_edge import erosion
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.container import pack
from deepfusion_edge.bundle.envelope import key_id, public_pem, seal
from deepfusion_edge.bundle.files import sync_directory, write_synced, writing
from deepfusion_edge.bundle.manifest import (
    GOLDEN,
    MANIFEST,
    MODEL,
    SIGNATURE,
    Erosion,
    Golden,
    Manifest,
    Preprocess,
    canonical,
    parse_manifest,
    part,
)
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.errors import TrustError, UsageError
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export import parity
from deepfusion_export.onnx import to_onnx
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Plan, require_fit
from deepfusion_toolkit.preprocess import spell

GOLDEN_TOLERANCE = 1e-3
"""Probabilities on another processor: other instructions round otherwise, errors do more."""

_IMAGE_SEED, _FACTOR_SEED = 1, 2


def build(
    models: Sequence[Classifier],
    plan: Plan,
    *,
    keys: Sequence[Ed25519PrivateKey],
    id: str,  # noqa: A002 - the manifest's own name
    sequence: int,
    created: str,
    expires: str,
    out: Path,
    images: npt.NDArray[np.float32] | None = None,
    step: Callable[[str], None] = lambda _text: None,
) -> Manifest:
    """Export, compare, sign and pack; ``out`` appears whole, after the device's check, or not.

    The same arguments and versions give the same bytes.

    Args:
        models: the hardened classifiers, in the plan's order.
        plan: made for these very weights.
        keys: one or more private keys, all of which sign.
        id: the product line.
        sequence: larger than that of every bundle of this line before.
        created: UTC, as ``2026-01-31T12:00:00Z``.
        expires: UTC, after ``created``.
        out: the ``.dfb`` file to make or replace.
        images: RGB [N, 3, H, W] in [0, 1], further inputs for the parity check.
        step: hears what is done next, a line each.

    Raises:
        UsageError: id, sequence, dates, classes or keys break a rule of the manifest.
        ModelError: the plan is for another model, or torch or ONNX Runtime refuse the network.
        ParityError: two routes disagree.
        StorageError: the folder cannot be written.
    """
    require_fit(plan, models)
    manifest = _statement(plan, id, sequence, created, expires)
    seal(canonical(manifest), keys)  # refuses no or equal keys before the long work
    with (
        writing(out),
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder,
    ):
        defended = Defended.of(models, plan)
        step(f"exporting {defended.name} with {len(plan.sites)} sites")
        graph = to_onnx(defended, plan.members)
        check_onnx(graph)
        step("comparing torch, ONNX Runtime and numpy")
        figures = parity.check(graph, defended, models, members=plan.members, images=images)
        golden = canonical(_golden(graph, plan))
        manifest = msgspec.structs.replace(
            manifest,
            files=(part(GOLDEN, golden), part(MODEL, graph)),
            provenance=_provenance(plan, figures),
        )
        step("signing")
        signed = canonical(manifest)
        members = {MANIFEST: signed, SIGNATURE: seal(signed, keys), MODEL: graph, GOLDEN: golden}
        packed = Path(folder, "bundle.dfb")
        pack(packed, members)
        step("checking the bundle as a device does")
        _verify(packed, keys, created)
        packed.replace(out)
        sync_directory(out.parent)
    return manifest


def _statement(plan: Plan, line: str, sequence: int, created: str, expires: str) -> Manifest:
    """The manifest without its files, already held against the device's rules."""
    manifest = Manifest(
        schema=1,
        id=line,
        sequence=sequence,
        created=created,
        expires=expires,
        runtime="onnx",
        classes=plan.classes,
        preprocess=Preprocess(height=plan.height, width=plan.width),
        erosion=Erosion(sites=plan.sites, members=plan.members, bases=len(plan.bases)),
        fusion=plan.fusion,
        thresholds=plan.thresholds,
        tolerance=GOLDEN_TOLERANCE,
        files=(part(GOLDEN, b""), part(MODEL, b"")),
        provenance={},
        policy=plan.policy,
    )
    try:
        return parse_manifest(canonical(manifest))
    except TrustError as error:
        raise UsageError(error.what, "correct the option or the plan that says so") from error


def _golden(graph: bytes, plan: Plan) -> Golden:
    """Run the probe once: what every device has to reproduce."""
    pixels = erosion.uniform(_IMAGE_SEED, 0, 3 * plan.height * plan.width)
    image = pixels.astype(np.float32).reshape(1, 3, plan.height, plan.width)
    factors = erosion.sample(plan.sites, seed=_FACTOR_SEED, stream=0, members=plan.members)
    outputs = OrtSession(graph, threads=1).run(image, factors)
    return Golden(
        image_seed=_IMAGE_SEED,
        factor_seed=_FACTOR_SEED,
        members=plan.members,
        fused=tuple(float(p) for p in outputs.fused),
        feature_variance=outputs.feature_variance,
    )


def _provenance(plan: Plan, figures: parity.Parity) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        f"version_{name.replace('-', '_')}": version(name)
        for name in ("deepfusion-toolkit", "numpy", "onnx", "onnxruntime", "onnxscript", "torch")
    }
    found |= {f"parity_{name}": value for name, value in figures.largest.items()}
    return found | {
        "model": " + ".join(base.name for base in plan.bases),
        "model_sha256": " ".join(base.model for base in plan.bases),
        "parity_cases": figures.cases,
        "plan_sha256": hashlib.sha256(canonical(plan)).hexdigest(),
        "prefix_share": plan.prefix_share,
        "preprocess": " ".join(map(spell, plan.preprocess)),
    }


def _verify(bundle: Path, keys: Sequence[Ed25519PrivateKey], now: str) -> None:
    """Let the device's own code judge the file: signature, rules, hashes, graph, golden probe."""
    public = []
    for key in keys:
        path = bundle.with_name(f"{key_id(key.public_key())}.pub")
        write_synced(path, [public_pem(key.public_key())])
        public.append(path)
    store.verify(bundle, public, threshold=len(public), now=now)
