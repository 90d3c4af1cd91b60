"""Power cuts at every operation: the disk forgets as it should, and the guards are needed."""

import os
import stat

import pytest

from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults import power
from benchmarks.prove.faults.disk import Disk, fingerprint, without_fsync
from benchmarks.prove.faults.procedures import all_procedures
from tests.edge.conftest import keys, make_bundle, make_keys  # noqa: F401 - fixtures

CHOSEN = ("installation and swap on probation", "a command taken, begun and ended")
SHOWN = ("first installation", *CHOSEN)


@pytest.fixture
def maker(tmp_path, make_bundle):  # noqa: F811 - the fixture
    return Maker(make_bundle(tmp_path / "base.dfb"), tmp_path / "bundles")


def write(path, content, *, sync=True):
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        if sync:
            os.fsync(stream.fileno())


def names(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_disk_forgets_what_was_not_synchronised(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_bytes(b"from before")
    with Disk(root, tmp_path / "images") as disk:
        write(root / "synced", b"content")
        write(root / "unsynced", b"content", sync=False)
    end = disk.moments[-1].images
    assert names(end["kept"])["unsynced"] == b"content"
    assert names(end["torn"]) == {"old": b"from before", "synced": b"content", "unsynced": b"con"}
    assert names(end["lost"]) == {"old": b"from before"}  # the folder was not synchronised


def test_a_name_is_there_once_its_folder_is_synchronised_and_a_removed_one_comes_back(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_bytes(b"from before")
    with Disk(root, tmp_path / "images") as disk:
        write(root / "new", b"content")
        folder = os.open(root, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        (root / "old").unlink()
        (root / "new").rename(root / "renamed")
    lost = [names(moment.images["lost"]) for moment in disk.moments]
    assert lost[0] == {"old": b"from before"}
    assert lost[-1] == {"old": b"from before", "new": b"content"}
    assert names(disk.moments[-1].images["kept"]) == {"renamed": b"content"}
    operations = [moment.operation for moment in disk.moments]
    assert operations == ["open new", "fsync", "fsync", "os.remove old", "os.rename new", "the end"]


def test_a_guard_can_be_taken_out_of_files_alone(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with Disk(root, tmp_path / "images") as disk, without_fsync(of=stat.S_ISREG):
        write(root / "new", b"content")
    assert names(disk.moments[-1].images["torn"]) == {"new": b"con"}


def test_fingerprints_tell_folders_apart(tmp_path):
    (tmp_path / "a").mkdir()
    seen = {fingerprint(tmp_path)}
    (tmp_path / "a" / "file").write_bytes(b"1")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "a" / "file").write_bytes(b"2")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "link").symlink_to("a")
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 4


@pytest.mark.parametrize("name", CHOSEN)
def test_every_point_of_a_procedure_is_recovered_from(maker, tmp_path, name):
    (procedure,) = [one for one in all_procedures(maker) if one.name == name]
    walked = power.walk(procedure, tmp_path / "walk")
    assert walked.failures == []
    assert walked.points > 50


@pytest.mark.parametrize(
    "guard",
    [one for one in power.GUARDS if one.shown_by in SHOWN],
    ids=lambda one: one.name,
)
def test_without_a_guard_it_is_noticed(maker, tmp_path, guard):
    (procedure,) = [one for one in all_procedures(maker) if one.name == guard.shown_by]
    assert power.without(guard, procedure, tmp_path / "walk")


def test_every_guard_has_its_procedure(maker):
    known = {one.name for one in all_procedures(maker)}
    assert {guard.shown_by for guard in power.GUARDS} <= known
