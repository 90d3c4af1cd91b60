"""Archives and folders that are no bundle, and bundles that nobody trusted has signed."""

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
from benchmarks.prove.hostile.world import World, envelope, flipped, name_of
from deepfusion_edge.bundle.container import MAX_CONTAINER_BYTES, open_bundle
from deepfusion_edge.bundle.envelope import seal
from deepfusion_edge.bundle.manifest import GOLDEN, MANIFEST, MODEL, SIGNATURE, canonical
from deepfusion_edge.bundle.store import verify
from deepfusion_edge.bundle.trust import Policy
from deepfusion_edge.commands.message import COMMAND

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


def _in_folder(world: World, change: Callable[[Path], object]) -> str:
    folder = world.folder(world.members())
    change(folder)
    return world.install(folder)


def _linked(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return change


def _piped(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


def _large(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 2**30)


def _as_fifo(folder: Path) -> None:
    (folder / MODEL).unlink()
    os.mkfifo(folder / MODEL)


def _signed(world: World, change: Callable[[World, dict[str, bytes]], None]) -> str:
    members = world.members()
    change(world, members)
    return world.install(world.pack(members))


def _by_stranger(world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] = seal(members[MANIFEST], [world.other])


def _by_two(world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] = seal(members[MANIFEST], [world.publisher, world.other])


def _wrong(_world: World, members: dict[str, bytes]) -> None:
    box = envelope(members[SIGNATURE])
    box["signatures"][0]["sig"] = flipped(box["signatures"][0]["sig"])
    members[SIGNATURE] = canonical(box)


def _borrowed(world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] = world.members(sequence=3)[SIGNATURE]


def _as_command(world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] = seal(members[MANIFEST], [world.publisher], COMMAND)


def _spaced(_world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] += b"\n"


def _unsigned(_world: World, members: dict[str, bytes]) -> None:
    box = envelope(members[SIGNATURE])
    members[SIGNATURE] = canonical(box | {"signatures": []})


def _loose(_world: World, members: dict[str, bytes]) -> None:
    box = envelope(members[SIGNATURE])
    sig = box["signatures"][0]["sig"]
    box["signatures"][0]["sig"] = sig[:-3] + chr(ord(sig[-3]) + 1) + "=="
    members[SIGNATURE] = canonical(box)


def _not_base64(_world: World, members: dict[str, bytes]) -> None:
    box = envelope(members[SIGNATURE])
    sig = box["signatures"][0]["sig"]
    box["signatures"][0]["sig"] = f"{sig[:20]}\n{sig[20:]}"
    members[SIGNATURE] = canonical(box)


def _two_needed(world: World, *, twice: bool) -> str:
    members = world.members()
    if twice:
        box = envelope(members[SIGNATURE])
        members[SIGNATURE] = canonical(box | {"signatures": box["signatures"] * 2})
    keys = [world.trust, world.inbox / "other.pub"]
    from deepfusion_edge.bundle.envelope import public_pem

    keys[1].write_bytes(public_pem(world.other.public_key()))
    manifest = verify(world.pack(members), keys, threshold=2, now="2026-06-01T00:00:00Z")
    return f"verified sequence {manifest.sequence}"


def _threshold(world: World) -> str:
    policy = Policy({name_of(world.publisher): world.publisher.public_key()}, 0)
    from deepfusion_edge.bundle.verify import authentic

    with open_bundle(world.pack(world.members())) as source:
        authentic(source.manifest, source.envelope, keys=policy.keys, threshold=policy.threshold)
    return "no signature was asked for"


def _stranger_key(world: World) -> str:
    from deepfusion_edge.bundle import store
    from deepfusion_edge.bundle.envelope import public_pem

    stranger = world.file(public_pem(world.other.public_key()), "stranger.pub")
    members = world.members()
    _by_stranger(world, members)
    path = world.pack(members)
    store.install(path, world.agent, [stranger], now="2026-06-01T00:00:00Z", probe=False)
    return "installed"


def _missing(*names: str) -> Callable[[World], str]:
    def drive(world: World) -> str:
        members = {n: c for n, c in world.members().items() if n not in names}
        return world.install(world.folder(members))

    return drive


_ONE = "what follows the members is not the one canonical directory"
_LINK, _DEVICE = (stat.S_IFLNK | 0o777) << 16, (stat.S_IFCHR | 0o666) << 16


def _extra(name: str, mode: int = _FILE, content: bytes = b"x") -> Callable[[World], str]:
    return lambda world: _more(world, (name, mode, content))


def _repacked(make: Callable[[World], Mapping[str, bytes]]) -> Callable[[World], str]:
    return lambda world: world.install(world.pack(make(world)))


def _zip(name: str, guard: str, drive: Callable[[World], str], says: str = _ONE) -> Case:
    return Case(name, guard, drive, says, "TrustError")


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
    _zip(
        "a folder with a file more",
        "names in a folder",
        lambda w: _in_folder(w, lambda f: (f / "golden" / "run.sh").write_bytes(b"x")),
        "run.sh' is not named in the manifest",
    ),
    _zip(
        "a folder with a linked folder in it",
        "links in a folder",
        lambda w: _in_folder(w, _linked("golden")),
        "is not named in the manifest",
    ),
    Case(
        "a folder whose model is a link",
        "link as a member",
        lambda w: _in_folder(w, _linked(MODEL)),
        "Too many levels of symbolic links",
        "InputError",
    ),
    _zip(
        "a folder whose manifest is a pipe",
        "pipe as a member",
        lambda w: _in_folder(w, _piped),
        "manifest.json is not a plain file",
    ),
    _zip(
        "a folder whose model is a pipe",
        "plain file as a member",
        lambda w: _in_folder(w, _as_fifo),
        "model.onnx is not a plain file",
    ),
    _zip(
        "a folder with a manifest of a gigabyte",
        "size in a folder",
        lambda w: _in_folder(w, _large),
        "is not a plain file of at most",
    ),
    Case("a folder without a model", "hash of a file", _missing(MODEL), "No such file", "InputError"),
    Case(
        "a folder without a signature",
        "signed manifest",
        _missing(SIGNATURE),
        "cannot read .*manifest.sig",
        "InputError",
    ),
    _zip(
        "signed by a stranger",
        "key of a signature",
        lambda w: _signed(w, _by_stranger),
        "signed by key .*, trusted here",
    ),
    _zip(
        "signed by a stranger too",
        "key of a signature",
        lambda w: _signed(w, _by_two),
        "signed by key .*, trusted here",
    ),
    _zip(
        "a stranger's key is brought along",
        "pinned keys",
        _stranger_key,
        "key [0-9a-f]{16} is not pinned here",
    ),
    _zip(
        "a wrong signature", "signature", lambda w: _signed(w, _wrong), "the signature of key .* is"
    ),
    _zip(
        "the signature of another manifest",
        "signed manifest",
        lambda w: _signed(w, _borrowed),
        "the signed manifest differs from manifest.json",
    ),
    _zip(
        "a signature that was made for a command",
        "type of an envelope",
        lambda w: _signed(w, _as_command),
        "envelope is of type",
    ),
    _zip(
        "no signature",
        "number of signatures",
        lambda w: _signed(w, _unsigned),
        "is not a DSSE envelope",
    ),
    _zip(
        "an envelope spelled otherwise",
        "spelling of an envelope",
        lambda w: _signed(w, _spaced),
        "manifest.sig is not in canonical form",
    ),
    _zip(
        "base64 spelled otherwise",
        "spelling of base64",
        lambda w: _signed(w, _loose),
        "base64 that is not canonical",
    ),
    _zip(
        "base64 with a line break",
        "digits of base64",
        lambda w: _signed(w, _not_base64),
        "text that is not base64",
    ),
    _zip(
        "one signature twice where two are needed",
        "order of signatures",
        lambda w: _two_needed(w, twice=True),
        "not in the order of their key ids",
    ),
    _zip(
        "one signature where two are needed",
        "threshold",
        lambda w: _two_needed(w, twice=False),
        "1 trusted signatures, 2 are needed",
    ),
    Case(
        "no signature is asked for",
        "least threshold",
        _threshold,
        "0 signatures are asked of 1",
        "UsageError",
    ),
)


def _second(data: bytearray) -> int:
    """Find where the second member begins."""
    return bytes(data).index(b"PK\x03\x04", 4)
