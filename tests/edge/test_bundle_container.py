"""The container has one form: every other file, down to one bit, is refused."""

import os
import shutil
import stat
import struct
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepfusion_edge.bundle.container import MAX_CONTAINER_BYTES, open_bundle, pack
from deepfusion_edge.bundle.manifest import GOLDEN, MANIFEST, MODEL, SIGNATURE
from deepfusion_edge.bundle.store import verify
from deepfusion_edge.errors import DeepFusionError, InputError, StorageError, TrustError

NOW = "2026-06-01T00:00:00Z"


@pytest.fixture
def bundle(make_bundle, tmp_path) -> Path:
    return make_bundle(tmp_path / "line.dfb")


@pytest.fixture
def check(keys):
    return lambda path: verify(path, [keys.public], now=NOW, probe=False)


@pytest.fixture
def fast_disk(monkeypatch):
    """Leave waiting for the disk out, which these thousands of verifications do not examine."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    if Path("/dev/shm").is_dir():  # noqa: S108 - memory, where there is some
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")  # noqa: S108


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def info(name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system, made.create_version, made.external_attr = 3, 20, 0o100644 << 16
    return made


def test_standard_tools_read_what_pack_writes(bundle):
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [MANIFEST, SIGNATURE, GOLDEN, MODEL]
        for member in archive.infolist():
            assert member.compress_type == zipfile.ZIP_STORED
            assert member.date_time == (1980, 1, 1, 0, 0, 0)
            assert stat.S_ISREG(member.external_attr >> 16)


def test_the_standard_library_writes_the_same_bytes(bundle, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        for name, content in members(bundle).items():
            archive.writestr(info(name), content)
    assert (tmp_path / "other.zip").read_bytes() == bundle.read_bytes()


def test_pack_depends_on_contents_alone(bundle, tmp_path):
    parts = members(bundle)
    files = {}
    for number, (name, content) in enumerate(reversed(parts.items())):
        files[name] = tmp_path / str(number)
        files[name].write_bytes(content)
    pack(tmp_path / "again.dfb", files)
    assert (tmp_path / "again.dfb").read_bytes() == bundle.read_bytes()


def test_pack_replaces_whole_or_not_at_all(bundle, tmp_path):
    before = bundle.read_bytes()
    with pytest.raises(InputError, match="cannot read"):
        pack(bundle, {**members(bundle), MODEL: tmp_path / "missing.onnx"})
    assert bundle.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["line.dfb"]
    with pytest.raises(StorageError, match="cannot write"):
        pack(tmp_path / "no" / "line.dfb", members(bundle))


@pytest.mark.usefixtures("fast_disk")
def test_any_changed_byte_is_refused(bundle, check, tmp_path):
    check(bundle)
    good = bundle.read_bytes()
    changed = tmp_path / "changed.dfb"
    accepted = []
    for at in range(len(good)):
        for flip in (1 << (at % 8), 0xFF):
            data = bytearray(good)
            data[at] ^= flip
            changed.write_bytes(data)
            with suppress(TrustError):
                check(changed)
                accepted.append((at, flip))
    assert accepted == []


@pytest.mark.usefixtures("fast_disk")
def test_any_shorter_file_is_refused(bundle, check, tmp_path):
    good = bundle.read_bytes()
    changed = tmp_path / "changed.dfb"
    for size in range(0, len(good), 7):
        changed.write_bytes(good[:size])
        with pytest.raises(TrustError):
            check(changed)


@given(at=st.integers(0, 4000), run=st.binary(min_size=1, max_size=40))
@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_inserted_bytes_are_refused(bundle, check, tmp_path, at, run):
    good = bundle.read_bytes()
    at = min(at, len(good))
    (tmp_path / "changed.dfb").write_bytes(good[:at] + run + good[at:])
    with pytest.raises(TrustError):
        check(tmp_path / "changed.dfb")


def _duplicate(archive):
    archive.writestr(info(MODEL), b"x")


def _twin(archive):
    archive.writestr(info("Model.onnx"), b"x")


def _climb(archive):
    archive.writestr(info("../../evil.txt"), b"x")


def _absolute(archive):
    archive.writestr(info("/tmp/evil.txt"), b"x")  # noqa: S108 - the attack


def _unknown(archive):
    archive.writestr(info("readme.txt"), b"x")


def _folder(archive):
    archive.writestr(info("golden/"), b"")


def _comment(archive):
    archive.comment = b"x"


def _link(archive):
    link = info("link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(link, b"/etc/passwd")


def _many(archive):
    for number in range(1000):
        archive.writestr(info(f"m{number}.txt"), b"")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "trick",
    [_duplicate, _twin, _climb, _absolute, _unknown, _folder, _comment, _link, _many],
)
def test_anything_beside_the_members_is_refused(bundle, check, tmp_path, trick):
    with zipfile.ZipFile(bundle, "a") as archive:
        trick(archive)
    with pytest.raises(TrustError, match="is not a bundle as deepfusion-export writes it"):
        check(bundle)
    assert sorted(tmp_path.iterdir()) == [bundle]


def _rewrite(bundle, change, compression=zipfile.ZIP_STORED):
    parts = members(bundle)
    with zipfile.ZipFile(bundle, "w") as archive:
        for name, content in parts.items():
            member = info(name)
            member.compress_type = compression
            change(member)
            archive.writestr(member, content, compress_type=compression)


def _extra_field(member):
    member.extra = struct.pack("<HH4s", 0x7075, 4, b"evil")


def _date(member):
    member.date_time = (2026, 1, 1, 0, 0, 0)


def _member_comment(member):
    member.comment = b"x"


def _link_in_place(member):
    if member.filename == MODEL:
        member.external_attr = (stat.S_IFLNK | 0o777) << 16


def _nothing(_member):
    pass


@pytest.mark.parametrize("change", [_extra_field, _date, _member_comment, _link_in_place])
def test_another_spelling_of_the_same_members_is_refused(bundle, check, change):
    _rewrite(bundle, _nothing)
    check(bundle)
    _rewrite(bundle, change)
    with pytest.raises(TrustError, match="is not a bundle as deepfusion-export writes it"):
        check(bundle)


def test_compressed_members_are_refused(bundle, check):
    _rewrite(bundle, _nothing, zipfile.ZIP_DEFLATED)
    with pytest.raises(TrustError, match="is not canonical"):
        check(bundle)


def test_encrypted_flag_is_refused(bundle, check):
    data = bytearray(bundle.read_bytes())
    data[6] |= 1
    bundle.write_bytes(data)
    with pytest.raises(TrustError, match=r"the header of manifest.json is not canonical"):
        check(bundle)


def test_a_member_that_claims_a_huge_size_is_not_read(bundle, check):
    data = bytearray(bundle.read_bytes())
    data[18:22] = struct.pack("<I", 2**32 - 1)
    bundle.write_bytes(data)
    with pytest.raises(TrustError, match=r"manifest.json has 4294967295 bytes where at most"):
        check(bundle)


def test_size_cap_comes_first(bundle, check):
    with bundle.open("r+b") as stream:
        stream.truncate(MAX_CONTAINER_BYTES + 1)
    with pytest.raises(TrustError, match="a bundle at most"):
        check(bundle)


def test_other_files_and_missing_files_are_named(check, tmp_path):
    (tmp_path / "a.dfb").write_bytes(b"\x89PNG")
    with pytest.raises(TrustError, match=r"manifest.json is missing"):
        check(tmp_path / "a.dfb")
    with pytest.raises(InputError, match="No such file"):
        check(tmp_path / "b.dfb")
    os.mkfifo(tmp_path / "c.dfb")
    with pytest.raises(InputError, match="neither a file nor a directory"):
        check(tmp_path / "c.dfb")


def test_a_directory_and_its_container_hold_the_same(make_bundle, check, tmp_path):
    folder = make_bundle(tmp_path / "plain")
    pack(
        tmp_path / "line.dfb",
        {name: folder / name for name in (MANIFEST, SIGNATURE, GOLDEN, MODEL)},
    )
    assert check(folder) == check(tmp_path / "line.dfb")
    with open_bundle(folder) as one, open_bundle(tmp_path / "line.dfb") as two:
        assert (one.manifest, one.envelope) == (two.manifest, two.envelope)


def _extra_file(folder):
    (folder / "golden" / "notes.txt").write_text("x")


def _extra_folder(folder):
    (folder / "empty").mkdir()


def _symlink(folder):
    (folder / MODEL).rename(folder.parent / "elsewhere.onnx")
    (folder / MODEL).symlink_to(folder.parent / "elsewhere.onnx")


def _symlinked_folder(folder):
    (folder / "golden").rename(folder.parent / "elsewhere")
    (folder / "golden").symlink_to(folder.parent / "elsewhere")


def _fifo(folder):
    (folder / MODEL).unlink()
    os.mkfifo(folder / MODEL)


def _missing(folder):
    (folder / MODEL).unlink()


def _longer(folder):
    with (folder / MODEL).open("ab") as stream:
        stream.write(b"x")


def _shorter(folder):
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:-1])


def _manifest_fifo(folder):
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


def _manifest_link(folder):
    (folder / MANIFEST).rename(folder.parent / "m.json")
    (folder / MANIFEST).symlink_to(folder.parent / "m.json")


@pytest.mark.parametrize(
    "change",
    [
        _extra_file, _extra_folder, _symlink, _symlinked_folder, _fifo, _missing, _longer,
        _shorter, _manifest_fifo, _manifest_link,
    ],
)  # fmt: skip
def test_directories_with_anything_else_are_refused(make_bundle, check, tmp_path, change):
    folder = make_bundle(tmp_path / "plain")
    check(folder)
    change(folder)
    with pytest.raises((TrustError, InputError)):
        check(folder)


@pytest.mark.usefixtures("fast_disk")
def test_any_changed_byte_in_a_directory_is_refused(make_bundle, check, tmp_path):
    folder = make_bundle(tmp_path / "plain")
    for name in (MANIFEST, SIGNATURE, GOLDEN, MODEL):
        good = (folder / name).read_bytes()
        for at in range(len(good)):
            data = bytearray(good)
            data[at] ^= 1 << (at % 8)
            (folder / name).write_bytes(data)
            with pytest.raises(DeepFusionError):
                check(folder)
        (folder / name).write_bytes(good)
    check(folder)


def test_verify_leaves_nothing_behind(bundle, check, tmp_path, monkeypatch):
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    check(bundle)
    shutil.copy(bundle, tmp_path / "b.dfb")
    with (tmp_path / "b.dfb").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(TrustError):
        check(tmp_path / "b.dfb")
    assert list(private.iterdir()) == []
