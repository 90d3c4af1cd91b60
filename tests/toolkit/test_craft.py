"""A set on disk: a true manifest, the same bytes alone, in any order and after an interruption."""

import hashlib
import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from deepfusion_edge.errors import InputError, ModelError, UsageError
from deepfusion_toolkit import batches
from deepfusion_toolkit import craft as crafting
from deepfusion_toolkit.attacks import Settings, prepare
from deepfusion_toolkit.craft import craft, targets_of
from deepfusion_toolkit.data import Dataset, Item, folder
from deepfusion_toolkit.journal import load_attacked
from tests.toolkit import attack_nets as nets

QUICK = Settings(eps=16, steps=3)


@cache
def surrogates():
    return nets.classifier(nets.three), nets.classifier(nets.other_three)


@cache
def prepared(count, chosen):
    return prepare(surrogates()[:count], chosen)


@pytest.fixture(autouse=True)
def _trace_once(monkeypatch):
    """Surgery takes longer than the attack on 8x8 images: do it once for the same surrogates."""
    monkeypatch.setattr(crafting, "prepare", lambda models, chosen: prepared(len(models), chosen))


@pytest.fixture
def data(tmp_path):
    return nets.random_folder(tmp_path / "clean")


def made(root):
    """Everything in a folder, by name."""
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def run(data, out, chosen=QUICK, **options):
    dataset = data if isinstance(data, Dataset) else folder.load(data)
    return craft(dataset, surrogates(), out, chosen, **{"batch": 4, **options})


def test_the_manifest_tells_the_truth_about_the_files(data, tmp_path):
    out = tmp_path / "out"
    manifest = run(data, out)
    listed = json.loads((out / "manifest.json").read_text())
    assert [i["file"] for i in listed["images"]] == [c.file for c in manifest.images]
    assert sorted(made(out)) == sorted(["manifest.json", *(c.file for c in manifest.images)])
    assert folder.load(out).classes == ("c0", "c1", "c2") == tuple(listed["classes"])
    for entry in listed["images"]:
        saved, clean = out / entry["file"], data / entry["source"]
        assert entry["sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
        assert entry["clean_sha256"] == hashlib.sha256(clean.read_bytes()).hexdigest()
        apart = np.abs(np.asarray(Image.open(saved), int) - np.asarray(Image.open(clean), int))
        assert 0 < apart.max() == entry["linf"] <= 16
    head = listed["head"]
    assert head["passes_per_image"] == 3 * 2
    assert (head["eps"], head["seed"], head["batch"], head["images"]) == (16.0, 0, 4, 9)
    assert head["attack"] == "deep-fusion (reconstruction)"
    assert head["settings"]["steps"] == 3
    assert [(i["passes"], i["batch"]) for i in listed["images"]] == [(6, 4)] * 9
    assert head["surrogates"] == ["three", "other_three"]
    assert len(set(head["fingerprints"])) == 2
    assert all(head["taps"])
    assert all(head["sites"])


def test_one_pass_of_every_surrogate_a_step(data, tmp_path):
    calls = []
    hooks = [
        m.register_forward_hook(lambda module, *_: calls.append(module)) for m in prepared(2, QUICK)
    ]
    run(data, tmp_path / "out", batch=9)
    for hook in hooks:
        hook.remove()
    assert len(calls) == 3 * 2
    assert {id(m) for m in calls} == {id(m) for m in prepared(2, QUICK)}


def test_an_image_alone_and_in_another_order_has_the_same_bytes(data, tmp_path):
    together = run(data, tmp_path / "together")
    dataset = folder.load(data)
    alone = Dataset(data, dataset.items[4:5], dataset.classes, dataset.layout)
    single = run(alone, tmp_path / "alone")
    assert single.images[0] == together.images[4]
    turned = Dataset(data, dataset.items[::-1], dataset.classes, dataset.layout)
    mixed = run(turned, tmp_path / "turned")
    assert mixed.images == together.images[::-1]


def test_a_short_batch_is_filled_up(data, tmp_path, monkeypatch):
    """Kernels are chosen by batch size: with one size, an image cannot feel how many there are."""
    attack, seen = batches.attack, []
    monkeypatch.setattr(
        batches, "attack", lambda *a: (seen.append((len(a[1]), a[3])), attack(*a))[1]
    )
    run(data, tmp_path / "out")
    assert [count for count, _ in seen] == [4, 4, 4]
    assert seen[-1][1] == ["c2/2.png"] * 4


def test_a_seed_is_a_result(data, tmp_path):
    first, again, other = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    run(data, first)
    run(data, again)
    assert made(first) == made(again)
    run(data, other, Settings(eps=16, steps=3, seed=1))
    assert made(first).keys() == made(other).keys()
    assert made(first)["c0/0.png"] != made(other)["c0/0.png"]


def interrupt(monkeypatch, after):
    """Let Ctrl-C arrive in the attack on batch number ``after``, counted from 0."""
    attack, calls = batches.attack, []

    def once(*args):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return attack(*args)

    monkeypatch.setattr(batches, "attack", once)


@pytest.mark.parametrize("cut", [0, 7])
def test_a_resumed_set_is_that_of_a_straight_run(cut, data, tmp_path, monkeypatch):
    straight, out = tmp_path / "straight", tmp_path / "out"
    run(data, straight)
    interrupted(data, out, monkeypatch)
    assert sorted(made(out)) == ["c0/0.png", "c0/1.png", "c0/2.png", "c1/0.png", "journal.jsonl"]
    journal = out / "journal.jsonl"
    if cut:  # the power went while the last line was written
        journal.write_bytes(journal.read_bytes()[:-cut])
    calls = []
    attack = batches.attack
    monkeypatch.setattr(batches, "attack", lambda *a: (calls.append(a[3]), attack(*a))[1])
    run(data, out, resume=True)
    assert made(out) == made(straight)
    assert calls[0][0] == ("c1/0.png" if cut else "c1/1.png")  # the rest was not done again


def interrupted(data, out, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run(data, out)


def test_what_changed_meanwhile_is_crafted_again(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(data, out, monkeypatch)
    nets.picture(data / "c0" / "1.png", np.full((*nets.SIZE, 3), 90))
    (out / "c0" / "2.png").write_bytes(b"spoiled")
    (out / "c1" / "0.png").unlink()
    run(data, out, resume=True)
    run(data, tmp_path / "straight")
    assert made(out) == made(tmp_path / "straight")


@pytest.mark.parametrize(
    "other",
    [
        Settings(eps=15, steps=3),
        Settings(eps=16, steps=4),
        Settings(eps=16, steps=3, decay=0.5),
        Settings(eps=16, steps=3, feature_weight=0.4),
        Settings(eps=16, steps=3, seed=1),
        Settings(eps=16, steps=3, targeted=True),
    ],
)
def test_other_settings_do_not_resume(other, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(data, out, monkeypatch)
    before = made(out)
    with pytest.raises(InputError, match="started with other settings"):
        run(data, out, other, resume=True)
    assert made(out) == before
    done = tmp_path / "done"
    if other.eps == 15:
        run(data, done)
        with pytest.raises(InputError, match="holds a set with other settings"):
            run(data, done, other, resume=True)


def test_another_batch_or_surrogate_does_not_resume(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(data, out, monkeypatch)
    with pytest.raises(InputError, match="started with other settings"):
        run(data, out, resume=True, batch=5)
    with pytest.raises(InputError, match="started with other settings"):
        craft(folder.load(data), surrogates()[:1], out, QUICK, batch=4, resume=True)


def test_a_finished_set_is_left_as_it_is(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = run(data, out)
    before = made(out)
    monkeypatch.setattr(batches, "attack", None)  # would fail if called
    assert run(data, out, resume=True) == first
    assert made(out) == before
    with pytest.raises(InputError, match="is not an empty folder"):
        run(data, out)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_something_else_is_left_alone(resume, data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="is not an empty folder"):
        run(data, out, resume=resume)
    assert made(out) == {"mine.txt": b"x"}
    with pytest.raises(InputError, match="is not an empty folder"):
        run(data, out / "mine.txt")


@pytest.mark.parametrize("name", ["manifest.json", "journal.jsonl"])
def test_a_damaged_record_is_refused(name, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(data, out, monkeypatch)
    head, first, *rest = (out / "journal.jsonl").read_bytes().split(b"\n")
    (out / name).write_bytes(b"\n".join([head, first[: len(first) // 2], *rest]))
    with pytest.raises(InputError, match="damaged manifest or journal"):
        run(data, out, resume=True)


def test_a_corrupt_image_is_found_before_anything_is_written(data, tmp_path):
    whole = (data / "c2" / "1.png").read_bytes()
    (data / "c2" / "1.png").write_bytes(whole[: len(whole) // 2])  # the header is still good
    with pytest.raises(InputError, match=r"c2/1\.png"):
        run(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_images_that_would_share_a_file_are_refused(data, tmp_path):
    Image.open(data / "c1" / "0.png").save(data / "c1" / "0.jpg")
    with pytest.raises(InputError, match=r"c1/0\.jpg and c1/0\.png would both be saved"):
        run(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sizes_are_kept_and_jpegs_become_png(data, tmp_path):
    shutil.rmtree(data / "c2")
    draw = np.random.default_rng(1)
    wide = Image.fromarray(draw.integers(0, 256, (10, 14, 3), dtype=np.uint8))
    (data / "c2").mkdir()
    wide.save(data / "c2" / "w.jpg")
    out = tmp_path / "out"
    manifest = run(data, out)
    assert manifest.images[-1].file == "c2/w.png"
    saved, clean = Image.open(out / "c2" / "w.png"), Image.open(data / "c2" / "w.jpg")
    assert saved.size == (14, 10)
    assert np.abs(np.asarray(saved, int) - np.asarray(clean, int)).max() == manifest.images[-1].linf


def listed(root, text):
    nets.random_folder(root)
    (root / "labels.csv").write_text(text)
    return folder.load(root)


def test_a_list_stays_a_list_with_the_targets_that_were_used(tmp_path):
    dataset = listed(tmp_path / "clean", "file,label,target\nc0/0.png,0,2\nc1/0.png,1,\n")
    manifest = run(dataset, tmp_path / "out", Settings(steps=3, targeted=True, feature_weight=0.0))
    assert manifest.classes is None
    again = folder.load(tmp_path / "out")
    assert again.items[0] == Item("c0/0.png", 0, 2)
    assert again.items[1].target == manifest.images[1].target in (0, 2)


def test_a_drawn_target_is_never_the_true_class(tmp_path):
    items = tuple(Item(f"{n}.png", n % 4) for n in range(200))
    dataset = Dataset(tmp_path, items, None, "labels.csv")
    drawn = targets_of(dataset, 4, seed=0)
    assert all(i.target != i.label and 0 <= i.target < 4 for i in drawn)
    assert {(i.label, i.target) for i in drawn} == {
        (a, b) for a in range(4) for b in range(4) if a != b
    }
    assert drawn == targets_of(dataset, 4, seed=0) != targets_of(dataset, 4, seed=1)


@pytest.mark.parametrize("target", [1, 3])
def test_a_listed_target_must_be_another_class_of_the_model(target, tmp_path):
    dataset = Dataset(tmp_path, (Item("a.png", 1, target),), None, "labels.csv")
    with pytest.raises(UsageError, match=rf"target class {target} of a\.png"):
        targets_of(dataset, 3, 0)
    with pytest.raises(ModelError, match="one class"):
        targets_of(dataset, 1, 0)


def test_models_that_do_not_fit_the_labels_are_refused(data, tmp_path):
    four = nets.classifier(nets.four)
    out = tmp_path / "out"
    with pytest.raises(ModelError, match="four has 4 outputs, the data set has 3 classes"):
        craft(folder.load(data), [surrogates()[0], four], out, QUICK)
    few = listed(tmp_path / "few", "file,label\nc0/0.png,2\n")
    with pytest.raises(ModelError, match="four has 4 outputs, three has 3 classes"):
        craft(few, [surrogates()[0], four], out, QUICK)
    numbers = listed(tmp_path / "numbers", "file,label\nc0/0.png,3\n")
    with pytest.raises(ModelError, match="label 3, model three has 3 outputs"):
        craft(numbers, surrogates(), out, QUICK)
    assert not out.exists()


def test_weights_that_are_not_numbers_leave_no_image(data, tmp_path, monkeypatch):
    monkeypatch.setattr(crafting, "prepare", prepare)
    with pytest.raises(ModelError, match="surrogate broken"):
        craft(folder.load(data), [nets.classifier(nets.broken)], tmp_path / "out", QUICK)
    assert sorted(made(tmp_path / "out")) == ["journal.jsonl"]


def test_clean_pixels_are_exact(data):
    dataset = folder.load(data)
    stacked = folder.stack(dataset, dataset.items)
    assert torch.equal(torch.round(stacked * 255) / 255, stacked)


def test_an_untargeted_set_names_no_target(tmp_path):
    """Otherwise it would be judged by classes that nobody attacked towards."""
    data = nets.random_folder(tmp_path / "clean", each=1)
    files = sorted(p.relative_to(data) for p in data.rglob("*.png"))
    rows = [f"{file},{n},{(n + 1) % 3}" for n, file in enumerate(files)]
    (data / "labels.csv").write_text("\n".join(["file,label,target", *rows]))
    out = tmp_path / "out"
    manifest = run(data, out)
    assert [c.target for c in manifest.images] == [None] * 3
    assert (out / "labels.csv").read_text().splitlines()[0] == "file,label"
    assert all(i.target is None for i in load_attacked(out).items)


def test_a_targeted_set_of_class_folders_is_judged_by_its_targets(data, tmp_path):
    out = tmp_path / "out"
    manifest = run(data, out, Settings(eps=16, steps=2, targeted=True))
    wanted = {c.file: c.target for c in manifest.images}
    assert None not in wanted.values()
    assert {i.file: i.target for i in load_attacked(out).items} == wanted
    (out / "manifest.json").write_text("{}")  # another tool's: no targets are known
    assert all(i.target is None for i in load_attacked(out).items)
