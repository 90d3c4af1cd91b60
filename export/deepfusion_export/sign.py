"""Key files: ``PREFIX.pem`` signs and stays secret (mode 0600), ``PREFIX.pub`` goes to devices."""

import os
import tempfile
from pathlib import Path

from deepfusion_edge.bundle.envelope import generate, private_pem, public_pem
from deepfusion_edge.bundle.files import sync_directory, write_synced, writing
from deepfusion_edge.errors import UsageError


def key_paths(prefix: Path) -> tuple[Path, Path]:
    """Return the private and the public key file of a prefix."""
    return prefix.with_name(f"{prefix.name}.pem"), prefix.with_name(f"{prefix.name}.pub")


def keygen(prefix: Path) -> tuple[Path, Path]:
    """Make a key pair; both files or none, and no key is ever replaced.

    Returns:
        The private key file (mode 0600) and the public one (0644).

    Raises:
        UsageError: one of the files exists.
        StorageError: the folder cannot be written.
    """
    private, public = key_paths(prefix)
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise _exists(path)
    key = generate()
    _create(private, private_pem(key), 0o600)
    try:
        _create(public, public_pem(key.public_key()), 0o644)
    except BaseException:
        private.unlink()
        raise
    sync_directory(private.parent)
    return private, public


def _create(path: Path, content: bytes, mode: int) -> None:
    """Make a whole file under a name that is free; a link, unlike a rename, replaces nothing."""
    with writing(path), tempfile.TemporaryDirectory(prefix=".key-", dir=path.parent) as folder:
        made = Path(folder, path.name)
        write_synced(made, [content])
        made.chmod(mode)
        try:
            os.link(made, path)
        except FileExistsError:
            raise _exists(path) from None


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists", "choose another --out; a key is never replaced")
