import json

import numpy as np
import pytest
from PIL import Image

from deepfusion_edge.errors import InputError, StorageError, UsageError
from deepfusion_toolkit import data
from deepfusion_toolkit.data.render import CLASSES, digest, patch, render

COUNTS = {"train": 2, "test": 1}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("render") / "patches"
    calls = []
    render(out, seed=5, per_class=COUNTS, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 18) for n in range(1, 19)]
    return out


def files_of(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.png")}


def test_layout_and_manifest(rendered):
    assert len(CLASSES) == 6
    for split, count in COUNTS.items():
        found = data.load(rendered / split)
        assert found.classes == CLASSES
        assert found.items[0].file == "crack/crack_00001.png"
        assert len(found) == 6 * count
        assert data.stack(found, found.items).shape == (6 * count, 3, 64, 64)
    manifest = json.loads((rendered / "manifest.json").read_text())
    assert manifest["seed"] == 5
    assert manifest["images"] == 18
    assert manifest["per_class"] == COUNTS
    assert manifest["sha256"] == digest(rendered)
    assert sorted(p.name for p in rendered.parent.iterdir()) == ["patches"]


def test_same_seed_gives_the_same_bytes(rendered, tmp_path):
    render(tmp_path / "again", seed=5, per_class=COUNTS)
    assert digest(tmp_path / "again") == digest(rendered)


def test_images_do_not_depend_on_their_number(rendered, tmp_path):
    render(tmp_path / "more", seed=5, per_class={"train": 3})
    few, more = files_of(rendered), files_of(tmp_path / "more")
    common = few.keys() & more.keys()
    assert len(common) == 12
    assert all(few[name] == more[name] for name in common)


def test_files_hold_the_patches(rendered):
    with Image.open(rendered / "test" / "dent" / "dent_00001.png") as image:
        assert np.array_equal(np.asarray(image), patch(5, "test", "dent", 1))


def test_seed_split_class_and_index_all_matter():
    patches = [
        patch(5, "train", "ok", 1),
        patch(6, "train", "ok", 1),
        patch(5, "test", "ok", 1),
        patch(5, "train", "dent", 1),
        patch(5, "train", "ok", 2),
    ]
    for i, one in enumerate(patches):
        for other in patches[i + 1 :]:
            assert np.abs(one.astype(int) - other).mean() > 2


@pytest.mark.parametrize("name", [c for c in CLASSES if c != "ok"])
def test_a_defect_changes_the_surface(name):
    from deepfusion_toolkit.data.defects import DEFECTS
    from deepfusion_toolkit.data.surface import bare

    for index in range(10):
        rng = np.random.default_rng(index)
        surface = bare(rng, 64)
        colour, height = surface.colour.copy(), surface.height.copy()
        DEFECTS[name](surface, rng)
        assert np.abs(surface.height - height).max() > 0.05
        assert np.abs(surface.colour - colour).max() > (0 if name != "dent" else -1)
        assert np.isfinite(surface.colour).all()


def test_exposure_is_sane():
    values = np.stack([patch(0, "train", name, i) for name in CLASSES for i in range(10)])
    assert 60 < values.mean() < 190
    assert (values == 255).mean() < 0.05
    assert (values == 0).mean() < 0.01
    assert values.std(axis=(1, 2)).min() > 1


def test_size_keeps_the_scene():
    small, large = patch(1, "train", "hole", 4, 64), patch(1, "train", "hole", 4, 128)
    assert (small.shape, large.shape) == ((64, 64, 3), (128, 128, 3))


def test_what_is_there_already_is_left_alone(rendered):
    before = {p: p.stat().st_mtime_ns for p in rendered.rglob("*")}
    render(rendered, seed=5, per_class=COUNTS)
    assert {p: p.stat().st_mtime_ns for p in rendered.rglob("*")} == before
    with pytest.raises(InputError, match="other settings"):
        render(rendered, seed=6, per_class=COUNTS)


def test_an_altered_data_set_is_refused(tmp_path):
    out = tmp_path / "out"
    render(out, seed=1, per_class={"test": 1}, size=32)
    (out / "test" / "ok" / "ok_00001.png").write_bytes(b"x")
    with pytest.raises(InputError, match="changed after it was rendered"):
        render(out, seed=1, per_class={"test": 1}, size=32)
    (out / "manifest.json").write_text("[")
    with pytest.raises(InputError, match="other settings"):
        render(out, seed=1, per_class={"test": 1}, size=32)


def test_a_folder_of_something_else_is_refused_and_an_empty_one_used(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    render(out, seed=1, per_class={"test": 1}, size=32)
    assert len(files_of(out)) == 6
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="holds no rendered data set"):
        render(other, seed=1, per_class={"test": 1})
    assert [p.name for p in other.iterdir()] == ["mine.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def stop(done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(tmp_path / "out", seed=1, per_class={"test": 1}, size=32, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be written"):
        render(tmp_path / "file" / "out", seed=1, per_class={"test": 1}, size=32)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seed": -1}, "seed -1"),
        ({"size": 8}, "size 8"),
        ({"size": 4096}, "size 4096"),
        ({"per_class": {}}, "images per class"),
        ({"per_class": {"train": 0}}, "images per class"),
        ({"per_class": {"val": 3}}, "images per class"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, wrong, said):
    with pytest.raises(UsageError, match=said):
        render(tmp_path / "out", **{"seed": 1, "per_class": {"test": 1}, **wrong})
    assert list(tmp_path.iterdir()) == []
