"""Durable writing: files and folders that survive a power cut, and errors that name the path."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepfusion_edge.bundle.manifest import Part
from deepfusion_edge.errors import InputError, StorageError, TrustError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors (disk full, read-only) into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            "free some space or make the folder writable, then try again",
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the operating system's errors (missing, no permission, bad disk) into InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}", "check the path and its permissions"
        ) from error


def write_synced(path: Path, chunks: Iterable[bytes]) -> None:
    """Create a file (mode 0600) that must not exist yet, and wait until it is on the disk.

    Raises:
        StorageError: it cannot be written.
        DeepFusionError: whatever ``chunks`` raises while it is consumed.
    """
    with writing(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        StorageError: the folder cannot be synchronised.
    """
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder (mode 0700), and those it lies in, and wait until their names are on the disk.

    Raises:
        StorageError: it cannot be made.
    """
    with writing(path):
        new = [one for one in (path, *path.parents) if not one.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in reversed(new):
        sync_directory(one.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Give a file new content: all of it or, whatever happens, the old one.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    with writing(path):
        temporary.unlink(missing_ok=True)
        try:
            write_synced(temporary, [content])
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


def replace_link(path: Path, target: str) -> None:
    """Point a symbolic link at ``target`` (relative to its folder) in one step.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    with writing(path):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(path)
    sync_directory(path.parent)


def checked(chunks: Iterable[bytes], part: Part) -> Iterator[bytes]:
    """Pass chunks on and check, at their end, that they are the file which the manifest names.

    Raises:
        TrustError: another size or hash.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if size != part.size or digest.hexdigest() != part.sha256:
        raise TrustError(
            f"{part.path} is not the signed file (its size or SHA-256 differs from the manifest)",
            "copy the bundle again from where it was made",
        )
