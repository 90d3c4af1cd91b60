"""When memory, disk or weights give out: what is finished stays and is gone on with."""

import errno
import json
from functools import cache

import pytest
import torch

from deepfusion_edge.errors import InputError, ModelError, StorageError
from deepfusion_toolkit import batches, files
from deepfusion_toolkit import craft as crafting
from deepfusion_toolkit.attacks import Attacked, Settings, prepare
from deepfusion_toolkit.craft import craft
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.journal import begun_with
from tests.toolkit import attack_nets as nets

QUICK = Settings(eps=16, steps=2, feature_weight=0.0)
FULL = RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")

NO_TEXT = b'{"schema":2,"head":{"version":"\xff"}}'


@cache
def surrogate():
    return nets.classifier(nets.three)


@cache
def prepared():
    return prepare([surrogate()], QUICK)


@pytest.fixture(autouse=True)
def _trace_once(monkeypatch):
    monkeypatch.setattr(crafting, "prepare", lambda *_: prepared())


@pytest.fixture
def data(tmp_path):
    return nets.random_folder(tmp_path / "clean")


def run(data, out, **options):
    return craft(folder.load(data), [surrogate()], out, QUICK, **{"batch": 5, **options})


def made(root):
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def recorded(out):
    """Sources of the images in the journal."""
    _head, *lines = (out / "journal.jsonl").read_text().splitlines()
    return [json.loads(line)["source"] for line in lines]


def memory_for(monkeypatch, most, error=FULL):
    """An attack that holds at most so many images; returns the batches that were tried."""
    attack, tried = batches.attack, []

    def narrow(models, images, *rest):
        tried.append(len(images))
        if len(images) > most:
            raise error
        return attack(models, images, *rest)

    monkeypatch.setattr(batches, "attack", narrow)
    return tried


@pytest.mark.parametrize("error", [FULL, MemoryError(), torch.cuda.OutOfMemoryError("full")])
def test_half_as_many_images_where_memory_ends(error, data, tmp_path, monkeypatch, capsys):
    tried = memory_for(monkeypatch, 2, error)
    manifest = run(data, tmp_path / "out", batch=8)
    assert tried == [8, 4, 2, 2, 2, 2, 2]  # and not eight again
    said = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert said == [
        "craft: memory ended at 8 images at once, going on with 4",
        "craft: memory ended at 4 images at once, going on with 2",
    ]
    assert [c.batch for c in manifest.images] == [2] * 9
    assert manifest.head.batch == 8
    assert [c.sha256 for c in run(data, tmp_path / "two", batch=2).images] == [
        c.sha256 for c in manifest.images
    ]


def test_another_error_is_not_taken_for_it(data, tmp_path, monkeypatch):
    tried = memory_for(monkeypatch, 2, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(data, tmp_path / "out")
    assert tried == [5]


def test_an_image_that_does_not_fit_alone(data, tmp_path, monkeypatch):
    attack, out = batches.attack, tmp_path / "out"

    def narrow(models, images, labels, keys, *rest):
        if len(images) > 2 or "c1/1.png" in keys:
            raise FULL
        return attack(models, images, labels, keys, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "attack", narrow)
        with pytest.raises(StorageError, match=r"c1/1\.png does not fit into memory alone"):
            run(data, out, batch=2)
    assert recorded(out) == ["c0/0.png", "c0/1.png", "c0/2.png", "c1/0.png"]
    seen = memory_for(monkeypatch, 2)
    run(data, out, batch=2, resume=True)
    assert seen == [2, 2, 2]  # five images are left
    assert made(out) == made_straight(data, tmp_path)


def made_straight(data, tmp_path):
    run(data, tmp_path / "straight", batch=2)
    return made(tmp_path / "straight")


def test_a_full_disk_keeps_what_is_finished(data, tmp_path, monkeypatch):
    out, count = tmp_path / "out", []

    def full(buffer, file):
        count.append(1)
        if len(count) == 4:
            file.write(buffer.read(20))
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write(buffer.read())

    with monkeypatch.context() as patch:
        patch.setattr(batches, "copyfileobj", full)
        with pytest.raises(StorageError, match=r"cannot write .*c1/0\.png .No space left"):
            run(data, out, batch=2)
    # also the first of the batch that was being saved; nothing is half there
    assert recorded(out) == ["c0/0.png", "c0/1.png", "c0/2.png"]
    assert sorted(made(out)) == ["c0/0.png", "c0/1.png", "c0/2.png", "journal.jsonl"]
    run(data, out, batch=2, resume=True)
    assert made(out) == made_straight(data, tmp_path)


def test_a_manifest_that_cannot_be_written_leaves_the_journal(data, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", files.replacing

    def full(path):
        if path.name == "manifest.json":
            raise StorageError(f"cannot write {path} (No space left on device)", "free space")
        return whole(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "replacing", full)
        with pytest.raises(StorageError, match=r"manifest\.json"):
            run(data, out, batch=2)
    assert len(recorded(out)) == 9
    monkeypatch.setattr(batches, "attack", None)  # nothing is left to attack
    run(data, out, batch=2, resume=True)
    monkeypatch.undo()
    monkeypatch.setattr(crafting, "prepare", lambda *_: prepared())
    assert made(out) == made_straight(data, tmp_path)


def test_weights_that_are_not_numbers_name_one_surrogate(data, tmp_path, monkeypatch):
    models = [surrogate(), nets.classifier(nets.broken)]
    monkeypatch.setattr(crafting, "prepare", prepare)
    with pytest.raises(ModelError, match="surrogate broken gives scores") as caught:
        craft(folder.load(data), models, tmp_path / "out", QUICK)
    assert "three" not in str(caught.value)


def test_the_head_of_what_stands_or_was_begun(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert begun_with(out) is None
    with monkeypatch.context() as patch:
        patch.setattr(batches, "attack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(data, out)
    begun = begun_with(out)
    assert begun.settings == QUICK
    manifest = run(data, out, resume=True)
    assert begun_with(out) == begun == manifest.head
    for text in (b"", b"{}", b"no json", b"\xff", b'{"schema":1}', NO_TEXT):
        (out / "manifest.json").write_bytes(text)
        assert begun_with(out) is None
        with pytest.raises(InputError, match="damaged manifest or journal"):
            run(data, out, resume=True)
    (out / "manifest.json").unlink()
    (out / "journal.jsonl").write_bytes(b"\n")
    assert begun_with(out) is None


def test_passes_and_largest_change_are_those_of_the_attack(data, tmp_path, monkeypatch):
    """Not those that were asked for."""
    monkeypatch.setattr(
        batches, "attack", lambda _models, images, *_: Attacked((images + 3 / 255).clamp(0, 1), 7)
    )
    manifest = run(data, tmp_path / "out")
    assert {(c.linf, c.passes) for c in manifest.images} == {(3, 7)}
