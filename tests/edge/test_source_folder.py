import itertools
import os

import pytest

from deepfusion_edge.config import FolderSource
from deepfusion_edge.errors import DeepFusionError, InputError
from deepfusion_edge.source import SOURCES
from deepfusion_edge.source.folder import Folder


class Clock:
    """Each look at it is one poll later."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        self.time += 1.0
        return self.time


def folder(path, **options):
    config = FolderSource(name="cam", path=str(path), poll_interval_s=0.5, **options)
    return Folder(config, now=lambda: 42.0, monotonic=Clock())


def names(frames):
    return [f.name for f in frames if f is not None]


def poll(frames):
    """Frames up to the next None."""
    return list(itertools.takewhile(lambda f: f is not None, frames))


def test_replay_is_sorted_once_and_of_image_suffixes(tmp_path):
    for name in ("b.png", "a.JPG", "c.jpeg", ".hidden.png", "manifest.json", "d.png.part"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "z.png").write_bytes(b"z")
    source = folder(tmp_path)
    frames = list(source)
    assert names(frames) == ["a.JPG", "b.png", "c.jpeg"]
    assert [f.sequence for f in frames] == [0, 1, 2]
    assert [f.content for f in frames] == [b"a.JPG", b"b.png", b"c.jpeg"]
    assert {f.captured_s for f in frames} == {42.0}
    assert names(folder(tmp_path, recursive=True)) == ["a.JPG", "b.png", "c.jpeg", "sub/z.png"]
    assert names(folder(tmp_path, pattern="b*")) == ["b.png"]


def test_the_registry_makes_it(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    config = FolderSource(name="cam", path=str(tmp_path))
    assert names(SOURCES[type(config)](config)) == ["a.png"]


def test_nothing_to_replay_is_an_error_and_nothing_to_watch_is_not(tmp_path):
    with pytest.raises(InputError, match=r"no \.png"):
        folder(tmp_path)
    assert poll(iter(folder(tmp_path, mode="watch"))) == []
    with pytest.raises(InputError, match="missing"):
        folder(tmp_path / "missing", mode="watch")


def test_a_file_that_vanishes_or_is_too_large_is_a_frame_with_a_reason(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"12345678")
    (tmp_path / "b.png").write_bytes(b"123456789")
    frames = iter(folder(tmp_path, max_bytes=8))
    assert next(frames).content == b"12345678"
    second = next(frames)
    assert isinstance(second.content, InputError)
    assert "more than 8 bytes" in second.content.what
    (tmp_path / "c.png").unlink()
    third = next(frames)
    assert isinstance(third.content, InputError)
    assert (third.name, third.sequence) == ("c.png", 2)


def test_a_pipe_in_the_place_of_a_file_does_not_hang(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    frames = iter(folder(tmp_path))
    next(frames)
    (tmp_path / "b.png").unlink()
    os.mkfifo(tmp_path / "b.png")
    assert next(frames).content == b""


def test_names_that_are_not_utf8_can_be_published(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:  # noqa: PTH123 - bytes path
        file.write(b"x")
    (frame,) = folder(tmp_path)
    assert frame.name == "\\xff.png"
    assert frame.content == b"x"


def test_watch_takes_stable_files_once_for_each_version(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    frames = iter(folder(tmp_path, mode="watch"))
    assert poll(frames) == []  # seen once: perhaps still being written
    path.write_bytes(b"12")
    assert poll(frames) == []  # it was
    assert [f.content for f in poll(frames)] == [b"12"]
    assert poll(frames) == []
    os.utime(path, (1, 1))  # same bytes, another time: another frame
    assert poll(frames) == []
    assert names(poll(frames)) == ["a.png"]
    path.unlink()
    assert poll(frames) == []
    path.write_bytes(b"123")
    os.utime(path, (1, 1))
    assert poll(frames) == []
    assert names(poll(frames)) == ["a.png"]


def test_watch_orders_by_time_of_writing(tmp_path):
    for time, name in ((3, "a"), (1, "b"), (2, "c")):
        (tmp_path / f"{name}.png").write_bytes(b"x")
        os.utime(tmp_path / f"{name}.png", (time, time))
    frames = iter(folder(tmp_path, mode="watch"))
    poll(frames)
    assert names(poll(frames)) == ["b.png", "c.png", "a.png"]


def test_a_watched_folder_that_goes_away_is_told_once_and_taken_up_again(tmp_path):
    root = tmp_path / "drop"
    root.mkdir()
    frames = iter(folder(root, mode="watch"))
    poll(frames)
    root.rmdir()
    (gone,) = poll(frames)
    assert isinstance(gone.content, DeepFusionError)
    assert poll(frames) == []
    root.mkdir()
    (root / "a.png").write_bytes(b"x")
    poll(frames)
    assert names(poll(frames)) == ["a.png"]


def test_between_two_polls_the_folder_is_left_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    moments = itertools.chain([0.0], itertools.repeat(0.1, 50), itertools.repeat(9.0))
    config = FolderSource(name="cam", path=str(tmp_path), mode="watch", poll_interval_s=1.0)
    frames = iter(Folder(config, monotonic=lambda: next(moments)))
    assert [next(frames) for _ in range(50)] == [None] * 50
    assert names([next(frames) for _ in range(4)]) == ["a.png"]
