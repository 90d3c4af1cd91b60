"""Archives that are no bundle as the exporter writes it."""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.prove.hostile.case import Case
from benchmarks.prove.hostile.world import World
from deepfusion_edge.bundle.container import MAX_CONTAINER_BYTES
from deepfusion_edge.bundle.manifest import GOLDEN, MANIFEST, MODEL, SIGNATURE

Change = Callable[[zipfile.ZipInfo], None]


_FILE = (stat.S_IFREG | 0o644) << 16


def _info(name: str, mode: int = _FILE) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system, made.create_version, made.external_attr = 3, 20, mode
    return made


def _more(world: World, *extra: tuple[str, int, bytes], comment: bytes = b"") -> str:
    path = world.pack(world.members())
    with zipfile.ZipFile(path, "a") as archive:
        for name, mode, content in extra:
            archive.writestr(_info(name, mode), content)
        archive.comment = comment
    return world.install(path)


def _other(world: World, change: Change, compression: int = zipfile.ZIP_STORED) -> str:
    path = world.inbox / "hostile.dfb"
    with zipfile.ZipFile(path, "w", compression) as archive:
        members = world.members()
        for name in (MANIFEST, SIGNATURE, GOLDEN, MODEL):
            member = _info(name)
            member.compress_type = compression
            change(member)
            archive.writestr(member, members[name], compress_type=compression)
    return world.install(path)


def _set(name: str, **values: object) -> Change:
    def change(member: zipfile.ZipInfo) -> None:
        if member.filename == name:
            for key, value in values.items():
                setattr(member, key, value)

    return change


def _bytes(world: World, change: Callable[[bytearray], object]) -> str:
    data = bytearray(world.pack(world.members()).read_bytes())
    change(data)
    return world.install(world.file(bytes(data)))


def _flags(data: bytearray) -> None:
    data[6] |= 1


def _claims(size: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[18:22] = struct.pack("<I", size)

    return change


def _huge_manifest(world: World) -> str:
    data = bytearray(world.pack(world.members()).read_bytes())
    _claims(2**30)(data)
    path = world.file(bytes(data))
    os.truncate(path, 2**30 + 2**20)
    return world.install(path)


def _sparse(world: World, size: int) -> str:
    path = world.file(b"PK")
    os.truncate(path, size)
    return world.install(path)


def _tar(world: World, name: str, kind: bytes, target: str = "") -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return world.install(world.file(buffer.getvalue()))


def _changed_golden(world: World) -> dict[str, bytes]:
    members = world.members()
    return members | {GOLDEN: members[GOLDEN].replace(b"0.", b"1.", 1)}


def _fifo(world: World) -> str:
    os.mkfifo(world.inbox / "pipe.dfb")
    return world.install(world.inbox / "pipe.dfb")


_ONE = "what follows the members is not the one canonical directory"


_LINK, _DEVICE = (stat.S_IFLNK | 0o777) << 16, (stat.S_IFCHR | 0o666) << 16


def _extra(name: str, mode: int = _FILE, content: bytes = b"x") -> Callable[[World], str]:
    return lambda world: _more(world, (name, mode, content))


def _repacked(make: Callable[[World], Mapping[str, bytes]]) -> Callable[[World], str]:
    return lambda world: world.install(world.pack(make(world)))


def _zip(name: str, guard: str, drive: Callable[[World], str], says: str = _ONE) -> Case:
    return Case(name, guard, drive, says, "TrustError")


def _second(data: bytearray) -> int:
    """Find where the second member begins."""
    return bytes(data).index(b"PK\x03\x04", 4)


CASES = (
    _zip("a member that climbs out (../evil)", "directory of a zip", _extra("../evil.txt")),
    _zip("a member with an absolute name", "directory of a zip", _extra("/evil.txt")),
    _zip("a member with a drive and backslashes", "directory of a zip", _extra("C:\\evil.txt")),
    _zip("a second model.onnx", "directory of a zip", _extra(MODEL)),
    _zip("a twin in capitals, Model.onnx", "directory of a zip", _extra("Model.onnx")),
    _zip("a symbolic link", "directory of a zip", _extra("link", _LINK, b"/etc/passwd")),
    _zip("a device", "directory of a zip", _extra("zero", _DEVICE)),
    _zip("a folder as a member", "directory of a zip", _extra("golden/", content=b"")),
    _zip(
        "a thousand empty members",
        "directory of a zip",
        lambda w: _more(w, *((f"m{n}", _FILE, b"") for n in range(1000))),
    ),
    _zip("a comment", "directory of a zip", lambda w: _more(w, comment=b"evil")),
    _zip(
        "bytes behind the end",
        "directory of a zip",
        lambda w: _bytes(w, lambda d: d.extend(b"evil")),
    ),
    _zip(
        "the model as a symbolic link",
        "directory of a zip",
        lambda w: _other(w, _set(MODEL, external_attr=_LINK)),
    ),
    _zip(
        "bytes before the beginning",
        "magic of a member",
        lambda w: _bytes(w, lambda d: d.__setitem__(slice(0, 0), b"#!/bin/sh\n")),
        "manifest.json is missing",
    ),
    _zip(
        "bytes between members",
        "magic of a member",
        lambda w: _bytes(w, lambda d: d.__setitem__(slice(_second(d), _second(d)), b"evil")),
        "manifest.sig is missing",
    ),
    _zip("an empty file", "magic of a member", lambda w: w.install(w.file(b"")), "is missing"),
    _zip(
        "cut off within a header",
        "magic of a member",
        lambda w: _bytes(w, lambda d: d.__delitem__(slice(20, None))),
        "manifest.json is missing .or the file is truncated",
    ),
    _zip(
        "cut off within a member",
        "end of a member",
        lambda w: _bytes(w, lambda d: d.__delitem__(slice(len(d) // 3, None))),
        "is truncated",
    ),
    _zip(
        "a gzip bomb",
        "magic of a member",
        lambda w: w.install(w.file(gzip.compress(bytes(2**24)))),
        "manifest.json is missing",
    ),
    _zip(
        "a tar with a link out of the folder",
        "magic of a member",
        lambda w: _tar(w, MANIFEST, tarfile.SYMTYPE, "/etc/passwd"),
        "manifest.json is missing",
    ),
    _zip(
        "a tar with a hard link",
        "magic of a member",
        lambda w: _tar(w, MANIFEST, tarfile.LNKTYPE, "../../etc/passwd"),
        "manifest.json is missing",
    ),
    _zip(
        "a member under another name",
        "name of a member",
        lambda w: _other(w, _set(GOLDEN, filename="../evil/probe.json")),
        "a member '../evil/probe.jso'... stands where golden/probe.json must be",
    ),
    _zip(
        "compressed members, a bomb",
        "header of a member",
        lambda w: _other(w, lambda _m: None, zipfile.ZIP_DEFLATED),
        "the header of manifest.json is not canonical",
    ),
    _zip(
        "an encrypted member",
        "header of a member",
        lambda w: _bytes(w, _flags),
        "the header of manifest.json is not canonical",
    ),
    _zip(
        "a header that gives another date",
        "header of a member",
        lambda w: _bytes(w, lambda d: d.__setitem__(slice(12, 14), b"\x21\x50")),
        "the header of manifest.json is not canonical",
    ),
    _zip(
        "an extra field of zip64",
        "name of a member",
        lambda w: _other(w, _set(MANIFEST, extra=struct.pack("<HHQQ", 1, 16, 9, 9))),
        "not canonical|stands where",
    ),
    _zip("a manifest of a gigabyte", "size of a member", _huge_manifest, "bytes where at most"),
    _zip(
        "a manifest that claims four gigabytes",
        "size of a member",
        lambda w: _bytes(w, _claims(2**32 - 1)),
        "manifest.json has 4294967295 bytes where at most",
    ),
    _zip(
        "larger than a bundle may be",
        "size of a file",
        lambda w: _sparse(w, MAX_CONTAINER_BYTES + 1),
        "a bundle at most",
    ),
    _zip(
        "a file that was changed and packed again",
        "hash of a file",
        _repacked(_changed_golden),
        "golden/probe.json is not the signed file",
    ),
    Case("a pipe as a bundle", "plain file", _fifo, "neither a file nor a directory", "InputError"),
    Case(
        "an endless device as a bundle",
        "plain file",
        lambda w: w.install(Path("/dev/zero")),
        "neither a file nor a directory",
        "InputError",
    ),
)
