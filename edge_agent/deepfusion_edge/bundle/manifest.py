r"""What a bundle says of itself: schema version 1 and its one canonical spelling. Pure.

A bundle is an uncompressed zip (or a directory) with ``manifest.json``, ``manifest.sig`` (DSSE
envelope, Ed25519), ``model.onnx``, ``golden/probe.json`` and, for people and scanners,
``bom.json`` (CycloneDX); the manifest names and hashes the rest. Patterns end in
``\Z``, because ``$`` also matches before a final line break.
"""

import hashlib
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from deepfusion_edge.erosion import MAX_BASES, Site
from deepfusion_edge.errors import TrustError
from deepfusion_edge.fusion import FusionRule, Thresholds
from deepfusion_edge.policy import Policy

SCHEMA = 1
PAYLOAD_TYPE = "application/vnd.deepfusion.manifest+json"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MODEL, GOLDEN, SBOM = "model.onnx", "golden/probe.json", "bom.json"
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_BUNDLE_BYTES = 2 * 2**30
MAX_SBOM_BYTES = 2**20

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
"""What decoding JSON from a stranger can raise, and spelling it again."""

Precision = Literal["fp32", "fp16", "int8"]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Utc = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the bundle: relative path, size in bytes, hash."""

    path: Annotated[str, Meta(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)*(\.[a-z0-9]+)\Z", max_length=100)]
    size: Annotated[int, Meta(ge=0, le=MAX_BUNDLE_BYTES)]
    sha256: Sha256


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the graph's input ``image`` is, and what of it is left to the device.

    ===================  ======================================================================
    ``pillow-bilinear``  the device resizes and scales: float32 [1, 3, H, W], RGB in [0, 1]
    ``in-graph``         the graph takes the camera's frame as it is: uint8 [1, H, W, 3]
    ===================  ======================================================================

    Attributes:
        height, width: of ``image``, in pixels.
        color: order of its channels; another one than RGB is the graph's own work.
        resize: see the table.
        images: most images N of one run, where the graph takes several: then ``image`` has N rows,
            factors are [N, K, F], and every output has N in front. Left out: one, as the runtime's
            ``base`` describes.
    """

    height: Annotated[int, Meta(ge=1, le=4096)]
    width: Annotated[int, Meta(ge=1, le=4096)]
    color: Literal["RGB", "BGR"] = "RGB"
    resize: Literal["pillow-bilinear", "in-graph"] = "pillow-bilinear"
    images: Annotated[int, Meta(ge=2, le=64)] | UnsetType = UNSET

    @property
    def framed(self) -> bool:
        """Whether the graph takes frames as a camera gives them."""
        return self.resize == "in-graph"


class Erosion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where and how strongly members are eroded, how many there are, and how factors are drawn.

    Attributes:
        members: K, the rows of factors: so many members of each base are fused.
        bases: how many base models the graph holds.
    """

    sites: Annotated[tuple[Site, ...], Meta(min_length=1, max_length=10_000)]
    members: Annotated[int, Meta(ge=1, le=64)]
    bases: Annotated[int, Meta(ge=1, le=MAX_BASES)] = 1
    sampler: Literal["philox4x64-raw-1"] = "philox4x64-raw-1"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The signed statement; everything the device does with a bundle comes from here.

    Attributes:
        id: name of the product line this bundle serves; a device follows one id.
        sequence: grows with every release; a device never installs a smaller or equal one.
        created, expires: UTC, RFC 3339 with whole seconds.
        classes: names in the order of the graph's outputs.
        tolerance: how far the golden probe's outputs may be from the recorded ones (absolute); it
            is larger where the graph computes in a lower precision.
        provenance: tool versions, hashes of model and plan, parity figures; for people, not rules.
        policy: when fewer than all members judge; None: never.
        precision: in which the network inside the graph computes; inputs, outputs and scores are
            float32 in all of them.
    """

    schema: Literal[1]
    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
    sequence: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    created: Utc
    expires: Utc
    runtime: Literal["onnx"]
    classes: Annotated[
        tuple[Annotated[str, Meta(max_length=200)], ...], Meta(min_length=2, max_length=100_000)
    ]
    preprocess: Preprocess
    erosion: Erosion
    fusion: FusionRule
    thresholds: Thresholds | None
    tolerance: Annotated[float, Meta(gt=0.0, le=0.1)]
    files: Annotated[tuple[Part, ...], Meta(min_length=2, max_length=64)]
    provenance: dict[str, str | int | float]
    policy: Policy | None = None
    precision: Precision = "fp32"


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The health probe, file ``golden/probe.json``.

    The image is ``uniform(image_seed, 0, 3*H*W)`` as float32 [1, 3, H, W], or 256 times that, cut
    to whole numbers, as uint8 [1, H, W, 3]; factors are drawn with ``factor_seed``, stream 0.
    Expected values come from the exporting runtime.
    """

    image_seed: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    factor_seed: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    members: Annotated[int, Meta(ge=1, le=64)]
    fused: tuple[float, ...]
    feature_variance: float


def canonical(value: Any) -> bytes:  # noqa: ANN401 - any msgspec-encodable value
    """Spell a value as JSON in the one way that is signed: sorted keys, no blanks, UTF-8."""
    return msgspec.json.encode(value, order="sorted")


def part(path: str, content: bytes) -> Part:
    """Describe one file of a bundle by its relative path and content."""
    return Part(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def parse_utc(text: str) -> datetime:
    """Read a time as the manifest spells it, such as ``2026-01-31T12:00:00Z``.

    Raises:
        TrustError: another spelling, or a date that does not exist.
    """
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        moment = None
    if moment is None or f"{moment:%Y-%m-%dT%H:%M:%SZ}" != text:
        raise TrustError(f"{text!a} is not a UTC time", "write it as 2026-01-31T12:00:00Z")
    return moment


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest; refuse what is too large, of another schema, or not spelled canonically.

    Raises:
        TrustError: naming the field and the rule.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise TrustError(
            f"manifest has {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are read",
            "export the bundle again",
        )
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
        respelled = canonical(manifest)
    except MALFORMED as error:
        raise TrustError(
            f"manifest is not valid: {error}", "use a bundle made by a matching deepfusion-export"
        ) from error
    if respelled != data:
        raise TrustError("manifest is not in canonical form", "export the bundle again")
    _check_whole(manifest)
    return manifest


def _check_whole(manifest: Manifest) -> None:
    """Apply the rules that concern more than one value."""
    paths = [file.path for file in manifest.files]
    names = [site.name for site in manifest.erosion.sites]
    largest = max((file.size for file in manifest.files if file.path == SBOM), default=0)
    total = sum(file.size for file in manifest.files)
    first = 0 if manifest.policy is None else manifest.policy.start
    preprocess = manifest.preprocess
    rules = (
        (paths == sorted(set(paths)), "files are not sorted or are listed twice"),
        ({MODEL, GOLDEN} <= set(paths), f"files must name {MODEL} and {GOLDEN}"),
        (not {MANIFEST, SIGNATURE} & set(paths), "files name the manifest itself"),
        (total <= MAX_BUNDLE_BYTES, f"files have {total} bytes, at most {MAX_BUNDLE_BYTES}"),
        (largest <= MAX_SBOM_BYTES, f"{SBOM} has {largest} bytes, at most {MAX_SBOM_BYTES}"),
        (len(set(names)) == len(names), "a site is named twice"),
        (first < manifest.erosion.members, f"policy starts with all members or more ({first})"),
        (not first or manifest.thresholds is not None, "policy without thresholds"),
        (len(set(manifest.classes)) == len(manifest.classes), "a class is named twice"),
        (all(manifest.classes), "a class has no name"),
        (preprocess.framed or preprocess.color == "RGB", "BGR where the device prepares images"),
        (parse_utc(manifest.created) < parse_utc(manifest.expires), "expires is not after created"),
    )
    for holds, broken in rules:
        if not holds:
            raise TrustError(f"manifest is not valid: {broken}", "export the bundle again")
