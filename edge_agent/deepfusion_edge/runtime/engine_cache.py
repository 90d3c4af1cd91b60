"""What TensorRT built, kept on the disk with a stamp of what it was built from and for.

A file is one line of JSON, its stamp and the SHA-256 of the rest, and then the content. A file is
used only if its stamp is the wanted one to the letter, its hash is right and nobody else may write
it. The hash finds damage; whoever may write the agent's state folder could forge it, which is why
the folder is this user's alone, and why every engine answers the golden probe before it judges.
"""

import hashlib
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from deepfusion_edge.bundle.files import replace_file, writing
from deepfusion_edge.bundle.manifest import MALFORMED, canonical
from deepfusion_edge.errors import StorageError

log = logging.getLogger(__name__)

Stamp = Mapping[str, str]
"""What makes a file stale when it changes: name -> value."""

ENGINES: Final = "engines"
"""The folder's name in the agent's state folder."""
_SUFFIX = ".engine"
_TIMING = "timing.cache"
_WRITABLE_BY_OTHERS = 0o022


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stamp: dict[str, str]
    sha256: str


class EngineCache:
    """A folder with one engine a bundle, and one timing cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def engine(self, stamp: Stamp) -> bytes | None:
        """Read the engine of ``stamp["bundle"]``; None if there is none for this very stamp."""
        return self._read(self.path_of(stamp["bundle"]), stamp)

    def timing(self, stamp: Stamp) -> bytes:
        """Read the timing cache; empty if there is none for this very stamp."""
        return self._read(self.folder / _TIMING, stamp) or b""

    def keep_engine(self, stamp: Stamp, content: bytes) -> None:
        """Write an engine; a folder that cannot be written is only warned of."""
        self._write(self.path_of(stamp["bundle"]), stamp, content)

    def keep_timing(self, stamp: Stamp, content: bytes) -> None:
        """Write the timing cache; a folder that cannot be written is only warned of."""
        self._write(self.folder / _TIMING, stamp, content)

    def forget_others(self, bundles: Collection[str]) -> None:
        """Remove engines of bundles whose hash begins with none of these 16 digits."""
        for path in self.folder.glob(f"*{_SUFFIX}"):
            if path.stem not in bundles:
                path.unlink(missing_ok=True)

    def path_of(self, bundle: str) -> Path:
        """Tell where the engine of a bundle lies, by the hash of its manifest."""
        return self.folder / f"{bundle[:16]}{_SUFFIX}"

    def _read(self, path: Path, stamp: Stamp) -> bytes | None:
        try:
            owner = path.stat()
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s is not used: %s", path, error.strerror)
            return None
        stale = _stale(owner, data, stamp)
        if stale:
            log.warning("%s is not used: %s", path, stale)
            return None
        return data.partition(b"\n")[2]

    def _write(self, path: Path, stamp: Stamp, content: bytes) -> None:
        head = canonical(_Head(dict(stamp), hashlib.sha256(content).hexdigest()))
        try:
            with writing(self.folder):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, head + b"\n" + content)
        except StorageError as error:
            log.warning("%s is not kept, it will be built again: %s", path.name, error.what)


def _stale(owner: os.stat_result, data: bytes, stamp: Stamp) -> str:
    """Say why a file must not be used; empty if it may."""
    if owner.st_uid != os.geteuid() or owner.st_mode & _WRITABLE_BY_OTHERS:
        return "another user may have written it"
    first, _, content = data.partition(b"\n")
    try:
        head = msgspec.json.decode(first, type=_Head)
    except MALFORMED:
        return "it is damaged"
    if hashlib.sha256(content).hexdigest() != head.sha256:
        return "it is damaged"
    names = sorted({*head.stamp, *stamp})
    changes = [
        f"{name} was {head.stamp.get(name)!a}, is {stamp.get(name)!a}"
        for name in names
        if head.stamp.get(name) != stamp.get(name)
    ]
    return ", ".join(changes)
