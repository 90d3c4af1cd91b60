"""A bundle that lies on this device's disk, read with the same distrust every time."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepfusion_edge.bundle.container import CHUNK
from deepfusion_edge.bundle.envelope import MAX_ENVELOPE_BYTES
from deepfusion_edge.bundle.files import checked, reading
from deepfusion_edge.bundle.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MODEL,
    SIGNATURE,
    Manifest,
    Part,
)
from deepfusion_edge.bundle.trust import Policy
from deepfusion_edge.bundle.verify import authentic, check_expiry
from deepfusion_edge.errors import InputError, TrustError


@dataclass(frozen=True)
class Installed:
    """A verified bundle.

    Attributes:
        manifest: what it says of itself.
        directory: where its members lie.
        bundle_hash: SHA-256 of ``manifest.json``, 64 hex digits; names the bundle in every record.
    """

    manifest: Manifest
    directory: Path
    bundle_hash: str

    def member_bytes(self, path: str) -> bytes:
        """Read a member into memory and check its hash, so that nothing can change in between.

        Raises:
            TrustError: the file was changed on the disk.
            InputError: the file cannot be read.
        """
        part = next(file for file in self.manifest.files if file.path == path)
        return b"".join(checked(_chunks(self.directory / path, part), part))

    def model_bytes(self) -> bytes:
        """Read ``model.onnx`` as ``member_bytes`` does."""
        return self.member_bytes(MODEL)


def read_installed(
    directory: Path, policy: Policy, *, now: str | None = None, check_files: bool = True
) -> Installed:
    """Verify signature, expiry (if ``now`` is given) and, by default, the hash of every file.

    Raises:
        TrustError: the bundle was changed on the disk, or has expired.
    """
    try:
        manifest_bytes = _small(directory / MANIFEST, MAX_MANIFEST_BYTES)
        envelope_bytes = _small(directory / SIGNATURE, MAX_ENVELOPE_BYTES)
        manifest = authentic(
            manifest_bytes, envelope_bytes, keys=policy.keys, threshold=policy.threshold
        )
        installed = Installed(manifest, directory, hashlib.sha256(manifest_bytes).hexdigest())
        if check_files:
            for part in manifest.files:
                for _ in checked(_chunks(directory / part.path, part), part):
                    pass
    except (InputError, TrustError) as error:
        raise TrustError(
            f"the installed bundle in {directory} is damaged ({error.what})",
            "run 'deepfusion-agent rollback', or install a bundle with a larger sequence",
        ) from error
    if now is not None:
        check_expiry(manifest, now)
    return installed


def _small(path: Path, limit: int) -> bytes:
    with reading(path), path.open("rb") as stream:
        return stream.read(limit + 1)


def _chunks(path: Path, part: Part) -> Iterator[bytes]:
    """Read at most one byte more than expected: enough for ``checked`` to notice."""
    left = part.size + 1
    with reading(path), path.open("rb") as stream:
        while left and (chunk := stream.read(min(left, CHUNK))):
            left -= len(chunk)
            yield chunk
