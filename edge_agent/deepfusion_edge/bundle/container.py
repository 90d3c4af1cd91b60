"""The ``.dfb`` file: a stored zip in exactly one byte form, or a directory with the same members.

The form follows from the members' names and contents alone: ``manifest.json``, ``manifest.sig``,
then the rest sorted by name; no compression, flags, extra fields, comments, gaps or zip64; dates of
1980; regular files of mode 0644. The reader does not parse a zip, it derives what must come next
from the signed manifest and compares. So every trick of the format (a second member of the same
name, ``..``, a link, a bomb, bytes before, between or behind) is a difference and is refused.
"""

import errno
import os
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from deepfusion_edge.bundle.envelope import MAX_ENVELOPE_BYTES
from deepfusion_edge.bundle.files import checked, reading, sync_directory, write_synced, writing
from deepfusion_edge.bundle.manifest import (
    MANIFEST,
    MAX_BUNDLE_BYTES,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    Part,
)
from deepfusion_edge.errors import InputError, ModelError, TrustError

CHUNK = 2**20
MAX_CONTAINER_BYTES = MAX_BUNDLE_BYTES + MAX_MANIFEST_BYTES + MAX_ENVELOPE_BYTES + 2**16

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_VERSION = 20
_MADE_ON_UNIX = (3 << 8) | _VERSION
_DATE_1980 = 0x0021
_MODE = (stat.S_IFREG | 0o644) << 16
_AGAIN = "copy the bundle again from where it was made"


class Source(Protocol):
    """A bundle that is being read, file or directory.

    Attributes:
        manifest: the bytes of ``manifest.json``, not judged yet.
        envelope: the bytes of ``manifest.sig``, not judged yet.
    """

    manifest: bytes
    envelope: bytes

    def copy(self, files: Sequence[Part], target: Path) -> None:
        """Write the members that the (by now trusted) manifest names into an empty folder.

        Raises:
            TrustError: the bundle differs from its manifest, or has anything beside it.
            InputError: the bundle cannot be read.
            StorageError: the folder cannot be written.
        """
        ...


class _Entry(NamedTuple):
    name: str
    size: int
    crc: int
    offset: int

    def local(self) -> bytes:
        name = self.name.encode("ascii")
        sizes = (self.crc, self.size, self.size, len(name), 0)
        return _LOCAL.pack(b"PK\x03\x04", _VERSION, 0, 0, 0, _DATE_1980, *sizes) + name

    def central(self) -> bytes:
        name = self.name.encode("ascii")
        sizes = (self.crc, self.size, self.size, len(name), 0)
        rest = (0, 0, 0, _MODE, self.offset)
        fixed = (_MADE_ON_UNIX, _VERSION, 0, 0, 0, _DATE_1980)
        return _CENTRAL.pack(b"PK\x01\x02", *fixed, *sizes, *rest) + name


def _tail(entries: Sequence[_Entry], offset: int) -> bytes:
    directory = b"".join(entry.central() for entry in entries)
    count = len(entries)
    return directory + _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), offset, 0)


def pack(path: Path, parts: Mapping[str, bytes | Path]) -> None:
    """Write a ``.dfb`` file; the same parts always give the same bytes, and never half a file.

    Args:
        path: the file to make or replace.
        parts: content by member name, as bytes or as a file to read; ``manifest.json`` and
            ``manifest.sig`` must be among them.

    Raises:
        ModelError: more than 2 GiB.
        InputError: a part cannot be read.
        StorageError: the file cannot be written.
    """
    names = [MANIFEST, SIGNATURE, *sorted(set(parts) - {MANIFEST, SIGNATURE})]
    with writing(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                _write(stream, [(name, parts[name]) for name in names])
                stream.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def _write(stream: BinaryIO, parts: Sequence[tuple[str, bytes | Path]]) -> None:
    entries: list[_Entry] = []
    for name, content in parts:
        entry = _Entry(name, 0, 0, stream.tell())
        stream.write(entry.local())
        size, crc = 0, 0
        for chunk in [content] if isinstance(content, bytes) else _chunks_of(content):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
            if entry.offset + size > MAX_BUNDLE_BYTES:
                raise ModelError(
                    f"the bundle would have more than {MAX_BUNDLE_BYTES} bytes",
                    "export a smaller model",
                )
            stream.write(chunk)
        entries.append(entry._replace(size=size, crc=crc))
        end = stream.tell()
        stream.seek(entry.offset)
        stream.write(entries[-1].local())
        stream.seek(end)
    stream.write(_tail(entries, stream.tell()))


def _chunks_of(path: Path) -> Iterator[bytes]:
    with reading(path), path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


@contextmanager
def open_bundle(path: Path) -> Iterator[Source]:
    """Open a ``.dfb`` file or a directory with the same members; nothing is trusted yet.

    Raises:
        InputError: there is no such file, or it cannot be read.
        TrustError: it does not begin as a bundle begins, or is larger than a bundle may be.
    """
    with reading(path):
        status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        yield _Directory(path)
        return
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is neither a file nor a directory", "give a .dfb file")
    if status.st_size > MAX_CONTAINER_BYTES:
        raise TrustError(
            f"{path} has {status.st_size} bytes, a bundle at most {MAX_CONTAINER_BYTES}",
            "give a .dfb file",
        )
    with reading(path):
        stream = path.open("rb")
    with stream:
        yield _Container(path, stream)


class _Container:
    """A ``.dfb`` file, read once from its first to its last byte."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream
        self._entries: list[_Entry] = []
        self._offset = 0
        self.manifest = b"".join(self._member(MANIFEST, MAX_MANIFEST_BYTES))
        self.envelope = b"".join(self._member(SIGNATURE, MAX_ENVELOPE_BYTES))

    def copy(self, files: Sequence[Part], target: Path) -> None:
        for part in sorted(files, key=lambda part: part.path):
            _place(target, part, self._member(part.path, part.size))
        tail = _tail(self._entries, self._offset)
        if self._read(len(tail) + 1) != tail:
            raise self._refuse("what follows the members is not the one canonical directory")

    def _member(self, name: str, limit: int) -> Iterator[bytes]:
        """Read one member that must come next; its header is compared once its CRC is known."""
        blank = _Entry(name, 0, 0, self._offset)
        header = self._read(len(blank.local()))
        if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
            raise self._refuse(f"{name} is missing (or the file is truncated)")
        size = _LOCAL.unpack_from(header)[7]
        if header[_LOCAL.size :] != name.encode("ascii"):
            found = header[_LOCAL.size :].decode("ascii", "backslashreplace")
            raise self._refuse(f"a member {found!a}... stands where {name} must be")
        if size > limit:
            raise self._refuse(f"{name} has {size} bytes where at most {limit} may be")
        crc, left = 0, size
        while left:
            chunk = self._read(min(left, CHUNK))
            if not chunk:
                raise self._refuse(f"{name} is truncated")
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
            yield chunk
        entry = blank._replace(size=size, crc=crc)
        if entry.local() != header:
            raise self._refuse(f"the header of {name} is not canonical")
        self._entries.append(entry)
        self._offset += len(header) + size

    def _read(self, size: int) -> bytes:
        with reading(self._path):
            return self._stream.read(size)

    def _refuse(self, why: str) -> TrustError:
        return TrustError(
            f"{self._path} is not a bundle as deepfusion-export writes it: {why}", _AGAIN
        )


class _Directory:
    """A directory with the members of a bundle as plain files; no links, nothing else in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.manifest = self._small(MANIFEST, MAX_MANIFEST_BYTES)
        self.envelope = self._small(SIGNATURE, MAX_ENVELOPE_BYTES)

    def copy(self, files: Sequence[Part], target: Path) -> None:
        self._check_names({MANIFEST, SIGNATURE, *(part.path for part in files)})
        for part in sorted(files, key=lambda part: part.path):
            _place(target, part, self._chunks(part.path, part.size))

    def _small(self, name: str, limit: int) -> bytes:
        return b"".join(self._chunks(name, limit))

    def _chunks(self, name: str, limit: int) -> Iterator[bytes]:
        path = self._path / name
        with reading(path):
            # Not blocking, so that a FIFO of that name cannot stop the installation for ever.
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise TrustError(f"{path} is a link, not a file", _AGAIN) from error
                raise
            with os.fdopen(descriptor, "rb") as stream:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                    raise TrustError(f"{path} is not a plain file of at most {limit} bytes", _AGAIN)
                left = limit
                while left and (chunk := stream.read(min(left, CHUNK))):
                    left -= len(chunk)
                    yield chunk

    def _check_names(self, allowed: set[str]) -> None:
        folders = {str(parent) for name in allowed for parent in Path(name).parents} - {"."}
        with reading(self._path):
            for parent, below, names in os.walk(self._path, onerror=_raise):
                for name in (*below, *names):
                    path = Path(parent, name)
                    relative = path.relative_to(self._path).as_posix()
                    mode = path.lstat().st_mode
                    known = folders if stat.S_ISDIR(mode) else allowed
                    if relative not in known:
                        raise TrustError(
                            f"{str(path)!a} is not named in the manifest",
                            "give the directory as it was made, without other files",
                        )


def _raise(error: OSError) -> None:
    raise error


def _place(target: Path, part: Part, chunks: Iterator[bytes]) -> None:
    path = target / part.path
    with writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_synced(path, checked(chunks, part))
