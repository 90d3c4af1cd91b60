"""Is this manifest to be trusted, here and now? Pure: no file, no clock, no environment.

Rules, in the order in which they are applied; each has its own error text:

1. *size*: manifest and envelope are at most 4 and 8 MiB, checked before anything is parsed.
2. *signature*: the envelope is canonical, holds exactly these manifest bytes, is signed by at least
   ``threshold`` trusted keys and by nobody else. Nothing in the manifest is looked at before.
3. *schema*: version 1, known fields only, every value in its range, the files a bundle needs.
4. *canonical*: the manifest is spelled in its one form.
5. *expiry*: ``now`` is before ``expires``. This holds whenever a bundle is used.
6. *created*: at most one day after ``now``. Devices have wrong clocks, so a day is tolerated; a
   clock that is further behind could not tell an expired bundle. This holds for installing only:
   an installed bundle must start on a device that booted in 1970 and has not met its time server.
7. *id*: the same product line as the bundle installed before.
8. *sequence*: larger than the highest one ever installed; an equal or smaller one is a replay.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deepfusion_edge.bundle.envelope import open_envelope
from deepfusion_edge.bundle.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    parse_manifest,
    parse_utc,
)
from deepfusion_edge.errors import TrustError

CLOCK_TOLERANCE = timedelta(days=1)


def trust(
    manifest_bytes: bytes,
    envelope_bytes: bytes,
    *,
    keys: Mapping[str, Ed25519PublicKey],
    threshold: int = 1,
    now: str,
    installed: tuple[str, int] | None,
) -> Manifest:
    """Apply all rules of the module's text; for installing.

    Args:
        manifest_bytes: the file ``manifest.json``.
        envelope_bytes: the file ``manifest.sig``.
        keys: trusted public keys by key id.
        threshold: how many different keys must have signed.
        now: UTC, as ``2026-01-31T12:00:00Z``.
        installed: id and highest sequence ever installed, or None on a fresh device.

    Raises:
        TrustError: the first rule that is broken.
        UsageError: a threshold that the keys cannot meet.
    """
    manifest = authentic(manifest_bytes, envelope_bytes, keys=keys, threshold=threshold)
    check_expiry(manifest, now)
    _check_created(manifest, now)
    if installed is not None:
        _check_successor(manifest, *installed)
    return manifest


def authentic(
    manifest_bytes: bytes,
    envelope_bytes: bytes,
    *,
    keys: Mapping[str, Ed25519PublicKey],
    threshold: int = 1,
) -> Manifest:
    """Apply rules 1 to 4, which do not depend on time or history.

    Raises:
        TrustError: the first rule that is broken.
        UsageError: a threshold that the keys cannot meet.
    """
    if len(manifest_bytes) > MAX_MANIFEST_BYTES:
        raise TrustError(
            f"manifest has {len(manifest_bytes)} bytes, at most {MAX_MANIFEST_BYTES} are read",
            "export the bundle again",
        )
    open_envelope(envelope_bytes, manifest_bytes, keys, threshold)
    return parse_manifest(manifest_bytes)


def check_expiry(manifest: Manifest, now: str) -> None:
    """Apply rule 5.

    Raises:
        TrustError: the bundle has expired.
    """
    if parse_utc(now) >= parse_utc(manifest.expires):
        raise TrustError(
            f"the bundle expired on {manifest.expires}, it is {now}",
            "install a newer bundle (or set the device's clock)",
        )


def _check_created(manifest: Manifest, now: str) -> None:
    latest: datetime = parse_utc(now) + CLOCK_TOLERANCE
    if parse_utc(manifest.created) > latest:
        raise TrustError(
            f"the bundle was created on {manifest.created}, but it is {now} here",
            "set the device's clock; at most one day of difference is tolerated",
        )


def _check_successor(manifest: Manifest, bundle_id: str, sequence: int) -> None:
    if manifest.id != bundle_id:
        raise TrustError(
            f"the bundle is for {manifest.id!a}, this device follows {bundle_id!a}",
            "use a bundle of the same id, or another state directory",
        )
    if manifest.sequence == sequence:
        raise TrustError(
            f"sequence {sequence} of {bundle_id!a} has been installed already",
            "nothing to do, or export the bundle with a larger sequence",
        )
    if manifest.sequence < sequence:
        raise TrustError(
            f"sequence {manifest.sequence} is older than {sequence}, which was installed here",
            "export the bundle with a larger sequence, or roll back",
        )
