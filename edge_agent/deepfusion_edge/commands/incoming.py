"""A file that arrives in pieces, and survives a power cut half-way; counted before it is taken."""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from deepfusion_edge.bundle.files import reading, sync_directory, writing
from deepfusion_edge.commands.message import Chunks
from deepfusion_edge.errors import StorageError

INCOMING = "incoming"
_BLOCK = 2**20


class Incoming:
    """One file on its way: ``<state>/incoming/<name>.part``, then ``<name>.dfb``."""

    def __init__(self, state: Path, name: str, size: int, sha256: str) -> None:
        """Prepare; nothing is written.

        Args:
            state: the state directory.
            name: safe as a file name.
            size: bytes of the whole file.
            sha256: of the whole file, hex.
        """
        self._folder = state / INCOMING
        self._part, self.path = self._folder / f"{name}.part", self._folder / f"{name}.dfb"
        self.size, self._sha256 = size, sha256

    @property
    def whole(self) -> bool:
        """Whether all of it is there, and is what was signed."""
        return self.path.is_file() and _digest(self.path) == (self.size, self._sha256)

    @property
    def there(self) -> int:
        """How many bytes have arrived, if they arrive in order."""
        return self._part.stat().st_size if self._part.is_file() else 0

    def room(self, min_free_bytes: int) -> None:
        """Refuse what would fill the disk: the file, and its copy as an installed bundle.

        Raises:
            StorageError: not enough is free.
        """
        with reading(self._folder.parent):
            free = shutil.disk_usage(self._folder.parent).free
        needed = 2 * self.size - self.there + min_free_bytes
        if free < needed:
            raise StorageError(
                f"{free} bytes are free for a bundle of {self.size}, {needed} are needed"
                f" (twice the bundle, and updates.min_free_bytes of {min_free_bytes})",
                "free some space on the device, then send a new command",
            )

    def open(self) -> int:
        """Open the part file for writing, made when missing; the caller closes the descriptor.

        Raises:
            StorageError: it cannot be written.
        """
        with writing(self._part):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(self._part, flags, 0o600)

    def finish(self) -> bool:
        """Give the file its final name if it is what was signed; remove it if it is not.

        Raises:
            StorageError: the disk refuses.
        """
        with writing(self._part):
            if _digest(self._part) != (self.size, self._sha256):
                self._part.unlink()
                return False
            descriptor = os.open(self._part, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._part.replace(self.path)
        sync_directory(self._folder)
        return True


class Pieces:
    """The chunks of one file; :meth:`put` may be called from another thread."""

    def __init__(self, file: Incoming, chunks: Chunks) -> None:
        """Look at what an interrupted transfer left.

        Raises:
            StorageError: the part file cannot be written.
        """
        self._file, self._chunks = file, chunks
        self._mutex = threading.Lock()
        self._descriptor = file.open()
        self._missing = {at for at, ok in enumerate(self._found()) if not ok}

    @property
    def missing(self) -> tuple[int, ...]:
        """Which chunks have not arrived, in order."""
        with self._mutex:
            return tuple(sorted(self._missing))

    def put(self, index: int, content: bytes) -> bool:
        """Take a chunk in any order; returns whether it is new and what was signed.

        Raises:
            StorageError: the disk refuses.
        """
        with self._mutex:
            if index not in self._missing or self._descriptor < 0:
                return False
            if hashlib.sha256(content).hexdigest() != self._chunks.sha256[index]:
                return False
            with writing(self._file.path):
                at, view = index * self._chunks.bytes, memoryview(content)
                while view:
                    wrote = os.pwrite(self._descriptor, view, at)
                    at, view = at + wrote, view[wrote:]
            self._missing.discard(index)
            return True

    def close(self) -> None:
        """Take no more chunks; closing twice does nothing."""
        with self._mutex:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _found(self) -> Iterator[bool]:
        with writing(self._file.path):
            os.ftruncate(self._descriptor, self._file.size)
            for at, sha256 in enumerate(self._chunks.sha256):
                size = min(self._chunks.bytes, self._file.size - at * self._chunks.bytes)
                content = os.pread(self._descriptor, size, at * self._chunks.bytes)
                yield hashlib.sha256(content).hexdigest() == sha256


def clear(state: Path, kept: frozenset[str] = frozenset()) -> None:
    """Remove arrived files and parts, but those of the names in ``kept``."""
    for path in (state / INCOMING).glob("*"):
        if path.stem not in kept:
            path.unlink(missing_ok=True)


def _digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with reading(path), path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
