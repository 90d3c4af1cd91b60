"""Files are whole or not there."""

import hashlib

import pytest

from deepfusion_edge.errors import StorageError
from deepfusion_toolkit.files import replacing, sha256_of, write_bytes


def test_bytes_are_written_whole_into_new_folders(tmp_path):
    path = tmp_path / "a" / "b.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    assert sha256_of(path) == hashlib.sha256(b"two").hexdigest()


def test_the_name_appears_only_at_the_end(tmp_path):
    path = tmp_path / "model.pt2"
    with replacing(path) as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == ".pt2"
        partial.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_an_interruption_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("plan.json", b"old")]


def test_a_full_disk_is_a_storage_error(tmp_path):
    def fail() -> None:
        with replacing(tmp_path / "x") as partial:
            partial.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left on device") as caught:
        fail()
    assert caught.value.exit_code == 8
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_a_storage_error(tmp_path):
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_bytes(tmp_path / "plan.json", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_no_name_is_left_when_nothing_was_written(tmp_path):
    with pytest.raises(StorageError), replacing(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []
