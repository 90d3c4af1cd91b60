"""Power cuts at every operation: the disk forgets as it should, and the guards are needed."""

import os
import stat

import pytest

from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults import killed, power
from benchmarks.prove.faults.disk import Disk, fingerprint, without_fsync
from benchmarks.prove.faults.procedures import all_procedures
from deepfusion_edge.bundle.files import make_folder
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


def test_a_folder_that_was_made_is_there_after_a_power_cut_and_so_are_its_parents(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with Disk(root, tmp_path / "images") as disk:
        make_folder(root / "line" / "state")
        (root / "plain").mkdir()
    lost = disk.moments[-1].images["lost"]
    assert (lost / "line" / "state").is_dir()
    assert not (lost / "plain").exists()


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
    walked = power.walk(chosen(maker, name), tmp_path / "walk")
    assert walked.failures == []
    assert walked.points > 50


def chosen(maker, name):
    (procedure,) = [one for one in all_procedures(maker) if one.name == name]
    return procedure


def test_a_process_is_killed_before_every_operation(maker, tmp_path):
    kills, failures = killed.kill_everywhere(chosen(maker, CHOSEN[1]), tmp_path / "killed")
    assert failures == []
    assert kills >= 3 * 3  # three times a file is removed, made beside and renamed


def test_what_a_kill_breaks_is_noticed(maker, tmp_path):
    (guard,) = [one for one in power.GUARDS if one.name == "links replaced by rename"]
    with guard.out():
        procedure = chosen(maker, "rolled back on probation")
        _, failures = killed.kill_everywhere(procedure, tmp_path / "killed")
    assert "no bundle installed" in failures[0]


def test_a_process_that_fails_is_noticed(maker, tmp_path):
    def fail(_state):
        raise OSError("broken")

    procedure = chosen(maker, CHOSEN[1])._replace(act=fail)
    assert killed.kill_everywhere(procedure, tmp_path) == (0, ["it ended with 1"])


@pytest.mark.parametrize(
    "guard",
    [one for one in power.GUARDS if one.shown_by in SHOWN],
    ids=lambda one: one.name,
)
def test_without_a_guard_it_is_noticed(maker, tmp_path, guard):
    assert power.without(guard, chosen(maker, guard.shown_by), tmp_path / "walk")


def test_every_guard_has_its_procedure(maker):
    known = {one.name for one in all_procedures(maker)}
    assert {guard.shown_by for guard in power.GUARDS} <= known
