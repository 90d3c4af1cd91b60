from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from deepfusion_edge.errors import InputError, UsageError
from deepfusion_edge.image import to_input
from deepfusion_toolkit import data
from deepfusion_toolkit.data import Item


def picture(path, value=100, size=(8, 6)):
    """Write a PNG whose pixels all differ a little; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(size[0] * size[1] * 3).reshape(size[1], size[0], 3)
    pixels = ((ramp + value) % 256).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folders(tmp_path):
    for label, name in enumerate(["dent", "ok", "scratch"]):
        for number in range(4 + label):
            picture(tmp_path / name / f"{number}.png", 10 * label + number)
    return tmp_path


def test_class_folders_are_sorted_and_other_files_ignored(folders):
    (folders / "ok" / "notes.txt").write_text("x")
    (folders / "ok" / ".hidden.png").write_bytes(b"")
    (folders / ".cache").mkdir()
    found = data.load(folders)
    assert found.classes == ("dent", "ok", "scratch")
    assert found.layout == "folders"
    assert Counter(item.label for item in found.items) == {0: 4, 1: 5, 2: 6}
    assert found.items[0] == Item("dent/0.png", 0, None)
    assert found.name(2) == "scratch"
    assert found.name(9) == "9"


def test_given_classes_fix_the_numbers(folders):
    found = data.load(folders, classes=["scratch", "hole", "ok", "dent"])
    assert {item.file.split("/")[0]: item.label for item in found.items} == {
        "scratch": 0,
        "ok": 2,
        "dent": 3,
    }
    with pytest.raises(InputError, match="scratch is none of the classes ok, dent"):
        data.load(folders, classes=["ok", "dent"])


def test_labels_csv_wins_and_may_name_targets(folders):
    (folders / "labels.csv").write_text(
        "file,label,target,author\nok/1.png,7,8,A\ndent/0.png,1,,B\n"
    )
    found = data.load(folders)
    assert found.items == (Item("ok/1.png", 7, 8), Item("dent/0.png", 1, None))
    assert (found.classes, found.layout) == (None, "labels.csv")
    assert found.name(7) == "7"
    with pytest.raises(InputError, match="has class 8, the model has 8"):
        data.load(folders, classes=[str(i) for i in range(8)])
    assert data.load(folders, classes=[str(i) for i in range(9)]).name(8) == "8"


def test_pixels_are_exact_and_match_the_device(folders):
    found = data.load(folders)
    expected = picture(folders / "dent" / "0.png", 0)
    assert np.array_equal(found.read(found.items[0]), expected)
    batch = data.stack(found, found.items[:3])
    assert batch.shape == (3, 3, 6, 8)
    assert batch.dtype == torch.float32
    assert np.array_equal((batch[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    resized = data.images_as_input(found, found.items[:2], 12, 10)
    assert resized.shape == (2, 3, 12, 10)
    assert np.array_equal(resized[:1].numpy(), to_input(expected, 12, 10))


def test_images_of_two_sizes_do_not_stack_but_group(folders):
    picture(folders / "ok" / "0.png", size=(5, 9))
    found = data.load(folders, classes=None)
    with pytest.raises(InputError, match=r"ok/0.png is 5x9 pixels, dent/0.png is 8x6"):
        data.stack(found, found.items)
    groups = data.groups_by_size(found, found.items)
    assert {size: len(items) for size, items in groups.items()} == {(6, 8): 14, (9, 5): 1}
    assert sum(len(data.stack(found, items)) for items in groups.values()) == 15


def test_reading_nothing_is_refused(folders):
    found = data.load(folders)
    for read in (lambda: data.stack(found, []), lambda: data.images_as_input(found, [], 4, 4)):
        with pytest.raises(InputError, match="no image chosen"):
            read()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not a folder"):
        data.load(tmp_path / "nowhere")


def test_a_folder_without_classes_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"holds no class folder and no labels\.csv"):
        data.load(tmp_path)


def test_an_empty_class_folder_is_named(folders):
    (folders / "crack").mkdir()
    (folders / "crack" / "a.bmp").write_bytes(b"BM")
    with pytest.raises(InputError, match="crack holds no PNG or JPEG"):
        data.load(folders)


def test_a_listed_file_that_is_missing_is_named(folders):
    (folders / "labels.csv").write_text("file,label\nok/99.png,1\n")
    with pytest.raises(InputError, match=r"ok/99.png, listed in labels.csv, is missing"):
        data.load(folders)


def test_labels_errors_name_the_folder(folders):
    (folders / "labels.csv").write_text("file,label\nok/1.png,one\n")
    with pytest.raises(InputError, match=f"{folders.name}: labels.csv line 2"):
        data.load(folders)
    (folders / "labels.csv").write_bytes(b"file,label\n\xff,1\n")
    with pytest.raises(InputError, match="not UTF-8"):
        data.load(folders)


@pytest.mark.parametrize("content", [b"", b"GIF89a", "half"])
def test_a_corrupt_image_is_named(folders, content):
    bad = folders / "scratch" / "5.png"
    bad.write_bytes(bad.read_bytes()[:50] if content == "half" else content)
    found = data.load(folders)
    with pytest.raises(InputError, match=r"scratch/5\.png: ") as caught:
        data.stack(found, found.items)
    assert "\n" not in str(caught.value)


def test_an_image_that_went_away_is_named(folders):
    found = data.load(folders)
    (folders / "dent" / "0.png").unlink()
    for read in (found.read, found.size):
        with pytest.raises(InputError, match=r"dent/0\.png: cannot be read"):
            read(found.items[0])


def test_subset_is_balanced_deterministic_and_nested(folders):
    found = data.load(folders)
    few, more = (data.subset(found, per_class=n, seed=3) for n in (2, 3))
    assert Counter(i.label for i in few.items) == {0: 2, 1: 2, 2: 2}
    assert set(few.items) < set(more.items)
    assert few == data.subset(found, per_class=2, seed=3)
    assert few.items == tuple(i for i in found.items if i in set(few.items))
    assert len({data.subset(found, per_class=2, seed=s).items for s in range(5)}) > 1
    limited = data.subset(found, limit=7, seed=3)
    assert sorted(Counter(i.label for i in limited.items).values()) == [2, 2, 3]
    assert data.subset(found, per_class=99) == found


def test_removing_a_file_changes_no_other_choice(folders):
    before = data.subset(data.load(folders), per_class=2, seed=1)
    ok = {i for i in data.load(folders).items if i.label == 1}
    gone = min(i.file for i in ok - set(before.items))
    (folders / gone).unlink()
    assert data.subset(data.load(folders), per_class=2, seed=1) == before


@pytest.mark.parametrize("wrong", [{"per_class": 0}, {"limit": -1}])
def test_a_subset_of_nothing_is_refused(folders, wrong):
    with pytest.raises(UsageError, match="must be at least 1"):
        data.subset(data.load(folders), **wrong)
