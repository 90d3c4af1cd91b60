"""Private key files of a person who signs; a device has none."""

import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deepfusion_edge.bundle.envelope import MAX_KEY_BYTES, load_private_key
from deepfusion_edge.bundle.files import reading
from deepfusion_edge.errors import TrustError


def read_private_keys(paths: Sequence[Path]) -> list[Ed25519PrivateKey]:
    """Read private key files.

    Raises:
        InputError: a file cannot be read.
        TrustError: a file is not an unencrypted Ed25519 private key in PEM form.
    """
    keys = []
    for path in paths:
        with reading(path), path.open("rb") as stream:
            data = stream.read(MAX_KEY_BYTES + 1)
        try:
            keys.append(load_private_key(data))
        except TrustError as error:
            raise TrustError(f"{path}: {error.what}", error.remedy) from error
    return keys


def readable_by_others(paths: Sequence[Path]) -> list[Path]:
    """List the key files that more people than their owner may read."""
    found = []
    for path in paths:
        with suppress(OSError):
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                found.append(path)
    return found
