"""Files of the state folder are replaced as a whole, or not at all."""

import resource

import pytest

from deepfusion_edge.bundle.files import replace_file
from deepfusion_edge.errors import StorageError


@pytest.fixture
def full_disk():
    """``full_disk(n)``: from then on no file grows beyond n bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_leaves_the_old_content_and_nothing_beside_it(tmp_path, full_disk):
    path = tmp_path / "history.json"
    replace_file(path, b"old")
    full_disk(10)
    with pytest.raises(StorageError, match="cannot write"):
        replace_file(path, bytes(11))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    replace_file(path, bytes(10))
    assert path.read_bytes() == bytes(10)
