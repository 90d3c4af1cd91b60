"""From a classifier and its plan to one signed file, checked as the device will check it."""

import hashlib
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    SBOM,
    SIGNATURE,
    Erosion,
    Golden,
    Manifest,
    Precision,
    Preprocess,
    canonical,
    parse_manifest,
    part,
)
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.errors import TrustError, UsageError
from deepfusion_edge.fusion import Outputs
from deepfusion_edge.image import probe_image
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export import limits, loss, parity, precision
from deepfusion_export.frames import Form, preparation, put_before
from deepfusion_export.loss import Loss
from deepfusion_export.onnx import to_onnx
from deepfusion_export.sbom import sbom
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Plan, require_fit
from deepfusion_toolkit.preprocess import spell

_IMAGE_SEED, _FACTOR_SEED = 1, 2
_PREPARED = Form()


@dataclass(frozen=True)
class Lowered:
    """A precision below FP32, and how it is held to account.

    Attributes:
        precision: ``fp16`` or ``int8``.
        data: labelled images that the loss is measured on.
        calibration: images that set the ranges of INT8; None for FP16.
        max_loss: how much accuracy may go, and by how much the share of alarms on clean images may
            rise, in [0, 1).
    """

    precision: Precision
    data: Dataset
    calibration: Dataset | None = None
    max_loss: float = 0.01

    def __post_init__(self) -> None:
        """Refuse too few images.

        Raises:
            UsageError: saying how many are needed.
        """
        loss.require_measurable(self.data, self.max_loss)
        if self.calibration is not None:
            loss.require_calibration(self.calibration)

    def convert(self, graph: bytes, plan: Plan, *, several: bool) -> bytes:
        """Convert an FP32 graph, for one image a run or several."""
        if self.calibration is None:
            return precision.to_fp16(graph)
        feeds = loss.calibration(self.calibration, plan, several=several)
        return precision.to_int8(graph, feeds)

    def limits(self, graph: bytes, plan: Plan, step: Callable[[str], None]) -> tuple[Plan, Dataset]:
        """Set the scores' limits anew for INT8; FP16 moves them too little.

        Args:
            graph: the lowered one.
            plan: whose limits they are.
            step: hears why they stay those of FP32, if so.

        Returns:
            The plan with the limits that the bundle gets, and images that none of them was set on.
        """
        if self.calibration is None or plan.thresholds is None:
            return plan, self.data
        if not limits.enough(plan, self.data, self.max_loss):
            step(
                f"the scores' limits stay those of FP32: half of {len(self.data)} images are too"
                " few to set them anew"
            )
            return plan, self.data
        first, second = limits.halves(self.data)
        step(f"setting the scores' limits anew on {len(first)} images")
        return limits.set_anew(graph, plan, first), second


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
    lowered: Lowered | None = None,
    form: Form = _PREPARED,
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
        lowered: the precision of the network; None is FP32.
        form: what the graph takes, by default one image that the device has prepared.
        step: hears what is done next, a line each.

    Raises:
        UsageError: id, sequence, dates, classes or keys break a rule of the manifest.
        ModelError: the plan is for another model, or torch or ONNX Runtime refuse the network.
        ParityError: two routes disagree, or a lower precision loses more than it may.
        StorageError: the folder cannot be written.
    """
    require_fit(plan, models)
    manifest = _statement(plan, form.said(plan), id, sequence, created, expires)
    seal(canonical(manifest), keys)  # refuses no or equal keys before the long work
    with (
        writing(out),
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder,
    ):
        defended = Defended.of(models, plan)
        step(f"exporting {defended.name} with {len(plan.sites)} sites")
        graph = to_onnx(
            Defended.of(models, plan, several=True) if form.several else defended, plan.members
        )
        check_onnx(graph)
        step("comparing torch, ONNX Runtime and numpy")
        figures = parity.check(graph, defended, models, members=plan.members, images=images)
        if form.several:
            parity.check_several(graph, defended, members=plan.members)
        fp32, cost = graph, None
        if lowered is not None:
            step(f"converting to {lowered.precision} and measuring what it costs")
            graph = lowered.convert(fp32, plan, several=form.several)
            check_onnx(graph)
            judging, rest = lowered.limits(graph, plan, step)
            cost = loss.measure(graph, fp32, plan, rest, limits=judging.thresholds)
            loss.require_small(cost, lowered.precision, lowered.max_loss)
            manifest = msgspec.structs.replace(
                manifest, thresholds=judging.thresholds, policy=judging.policy
            )
        if form.frame is not None:
            step("putting the camera's frames in front")
            before = preparation(form, defended.size)
            graph, fp32 = (put_before(one, before) for one in (graph, fp32))
            check_onnx(graph)
            parity.check_frames(before, fp32, defended, form, members=plan.members)
        chosen: Precision = "fp32" if lowered is None else lowered.precision
        probed = _probe(graph, manifest)
        in_fp32 = probed if lowered is None else _probe(fp32, manifest)
        golden = canonical(_golden(probed, plan))
        bom = sbom(id, sequence, created, graph, plan)
        manifest = msgspec.structs.replace(
            manifest,
            files=(part(SBOM, bom), part(GOLDEN, golden), part(MODEL, graph)),
            precision=chosen,
            tolerance=loss.tolerance(chosen, probed, in_fp32),
            provenance=_provenance(plan, figures) | _costs(cost, lowered),
        )
        step("signing")
        signed = canonical(manifest)
        members = {MANIFEST: signed, SIGNATURE: seal(signed, keys)}
        members |= {MODEL: graph, GOLDEN: golden, SBOM: bom}
        packed = Path(folder, "bundle.dfb")
        pack(packed, members)
        step("checking the bundle as a device does")
        _verify(packed, keys, created)
        packed.replace(out)
        sync_directory(out.parent)
    return manifest


def _statement(
    plan: Plan, preprocess: Preprocess, line: str, sequence: int, created: str, expires: str
) -> Manifest:
    """The manifest without its files, already held against the device's rules."""
    manifest = Manifest(
        schema=1,
        id=line,
        sequence=sequence,
        created=created,
        expires=expires,
        runtime="onnx",
        classes=plan.classes,
        preprocess=preprocess,
        erosion=Erosion(sites=plan.sites, members=plan.members, bases=len(plan.bases)),
        fusion=plan.fusion,
        thresholds=plan.thresholds,
        tolerance=loss.LEAST["fp32"],
        files=(part(GOLDEN, b""), part(MODEL, b"")),
        provenance={},
        policy=plan.policy,
    )
    try:
        return parse_manifest(canonical(manifest))
    except TrustError as error:
        raise UsageError(error.what, "correct the option or the plan that says so") from error


def _probe(graph: bytes, manifest: Manifest) -> Outputs:
    """Run the probe once: what every device has to reproduce."""
    image = probe_image(_IMAGE_SEED, manifest.preprocess)
    sites, members = manifest.erosion.sites, manifest.erosion.members
    factors = erosion.sample(sites, seed=_FACTOR_SEED, stream=0, members=members)
    return OrtSession(graph, threads=1).run(image, factors)


def _golden(outputs: Outputs, plan: Plan) -> Golden:
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
    found["version_python"] = platform.python_version()
    found |= {f"parity_{name}": value for name, value in figures.largest.items()}
    return found | {
        "model": " + ".join(base.name for base in plan.bases),
        "model_sha256": " ".join(base.model for base in plan.bases),
        "parity_cases": figures.cases,
        "plan_sha256": hashlib.sha256(canonical(plan)).hexdigest(),
        "prefix_share": plan.prefix_share,
        "preprocess": " ".join(map(spell, plan.preprocess)),
    }


def _costs(cost: Loss | None, lowered: Lowered | None) -> dict[str, str | int | float]:
    if cost is None or lowered is None:
        return {}
    found: dict[str, str | int | float] = {
        f"precision_{name}": value for name, value in cost._asdict().items()
    }
    if lowered.calibration is not None:
        found["precision_calibration_images"] = len(lowered.calibration)
    return found


def _verify(bundle: Path, keys: Sequence[Ed25519PrivateKey], now: str) -> None:
    """Let the device's own code judge the file: signature, rules, hashes, graph, golden probe."""
    public = []
    for key in keys:
        path = bundle.with_name(f"{key_id(key.public_key())}.pub")
        write_synced(path, [public_pem(key.public_key())])
        public.append(path)
    store.verify(bundle, public, threshold=len(public), now=now)
