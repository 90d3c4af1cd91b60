"""Several devices train one model: what they do together is what one of them does alone."""

from dataclasses import replace

import pytest
import torch

from deepfusion_toolkit.data import folder
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden import Settings, learner
from deepfusion_toolkit.harden.copies import copies_of, follow, joined, parted, side_by_side
from deepfusion_toolkit.harden.images import images_of, stream
from deepfusion_toolkit.harden.itself import OnItself
from deepfusion_toolkit.harden.learner import Learner
from deepfusion_toolkit.harden.lessons import Adversarial, Distillation
from deepfusion_toolkit.harden.pool import Workshop
from deepfusion_toolkit.models import load, save
from deepfusion_toolkit.surgery import erode, find_sites
from deepfusion_toolkit.surgery.graph import trace
from tests.toolkit import attack_nets as nets

SETTINGS = Settings(eps=8, epochs=2, rate=1e-2)
TWO, THREE = ("cpu", "cpu"), ("cpu", "cpu", "cpu")


@pytest.fixture
def dataset(tmp_path):
    return folder.load(nets.squares(tmp_path / "data", each=12))


@pytest.fixture
def images(dataset):
    return images_of(dataset, nets.SIZE)


def bare():
    """A net without a batch norm."""
    torch.manual_seed(0)
    return nets.Skipping(3)


def defended(build=bare):
    return defending(nets.classifier(build))


def defending(base):
    sites = find_sites(trace(base.core, base.size), ("skip",), {"skip": 0.2})
    return Defended(erode(base, sites[-1:]))


def trained(images, devices, build=bare, epochs=1, attacked=True):
    """Weights before and after, and the mean loss."""
    pupil = Learner(defended(build), SETTINGS, len(images.keys), 3, devices)
    before = torch.cat([w.flatten() for w in pupil.weights]).clone()
    teacher = Distillation(images, None, (), 3)
    if attacked:
        teacher = Adversarial(images, OnItself(pupil.copies, SETTINGS, 2), (), 3)
    loss = [pupil.epoch(n, teacher, lambda _steps: None) for n in range(epochs)]
    return before, torch.cat([w.flatten() for w in pupil.weights]), loss


@pytest.mark.parametrize("devices", [TWO, THREE])
def test_several_devices_train_what_one_does(images, devices, monkeypatch):
    monkeypatch.setattr(learner, "BATCH", 10)  # the last batch is smaller, and uneven
    # without an attack: the sign of a gradient near zero turns with the order of sums
    before, alone, loss = trained(images, ("cpu",), epochs=2, attacked=False)
    same, together, its_loss = trained(images, devices, epochs=2, attacked=False)
    assert torch.equal(before, same)
    moved = (alone - before).abs()
    assert moved.max() > 1e-2
    assert (alone - together).abs().max() < 1e-3 * moved.max()
    assert its_loss == pytest.approx(loss, rel=1e-4)


def test_the_same_devices_give_the_same_weights_and_all_of_them_follow(dataset):
    images = images_of(dataset, nets.Learner.input_size)  # this net has a batch norm
    *_, one, _ = trained(images, TWO, nets.public)
    *_, other, _ = trained(images, TWO, nets.public)
    assert torch.equal(one, other)
    copies = copies_of(defended(nets.public), THREE)
    with torch.no_grad():
        for weight in copies[0].weights:
            weight.add_(1)
    follow(copies)
    for copy in copies[1:]:
        assert copy.model is not copies[0].model
        for own, first in zip(copy.weights, copies[0].weights, strict=True):
            assert own is not first
            assert torch.equal(own, first)


def test_an_image_is_attacked_alike_on_whichever_device(images):
    model = defended()
    alone = OnItself(copies_of(model, ["cpu"]), SETTINGS, 2)(images, stream(0, "a"))
    for devices in (TWO, THREE):
        together = OnItself(copies_of(model, devices), SETTINGS, 2)(images, stream(0, "a"))
        assert torch.equal(alone, together)
    few = images.some([0])  # fewer than devices
    assert OnItself(copies_of(model, TWO), SETTINGS, 2)(few, stream(0, "a")).shape[0] == 1


def test_the_pool_is_the_same_and_each_device_has_surrogates_of_its_own(images, tmp_path):
    made = {}
    for devices in (("cpu",), TWO):
        place = tmp_path / str(len(devices))
        public = [nets.classifier(nets.public)]
        workshop = Workshop(public, replace(SETTINGS, steps=1), place, devices)
        workshop.sources = [s for s in workshop.sources if s.attack == "mi"]
        examples = workshop.craft(images, 36, "examples")
        files = {p.name: p.read_bytes() for p in place.iterdir()}
        made[devices] = ([e.pixels for e in examples], files)
        weights = [{w.data_ptr() for w in m.parameters()} for m in workshop._prepared.values()]
        assert len(weights) == len(devices)
        assert len(set.union(*weights)) == sum(map(len, weights))
    (one, files), (other, its_files) = made.values()
    assert len(files) == 2
    assert files == its_files
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_parts_are_mixed_and_joined_in_order():
    batch = torch.arange(7)
    parts = parted(batch, 3)
    assert [p.tolist() for p in parts] == [[0, 3, 6], [1, 4], [2, 5]]
    assert torch.equal(joined(parts), batch)
    assert len(parted(batch[:2], 3)) == 2
    assert side_by_side(lambda w, p: (w, p), "ab", [1, 2]) == [("a", 1), ("b", 2)]
    assert side_by_side(lambda w, p: (w, p), "ab", []) == []


def test_what_is_attacked_and_asked_moves_with_the_weights(images, monkeypatch):
    pupil, moved = Learner(defended(), SETTINGS, len(images.keys), 3), []
    for module in (pupil.first.undefended, pupil.first.model.preprocess):
        monkeypatch.setattr(
            module, "to", lambda device, module=module: moved.append((module, device))
        )
    pupil.move("cpu")
    assert moved == [(pupil.first.model.preprocess, "cpu"), (pupil.first.undefended, "cpu")]


def test_copies_of_a_model_file_are_made_without_a_warning(tmp_path):
    base = nets.classifier(nets.public)
    save(base.core, base.size, tmp_path / "m.pt2")
    loaded = load(str(tmp_path / "m.pt2"), image_size=base.size)
    copies = copies_of(defending(loaded), TWO)
    assert len(copies) == 2  # warnings are errors here


def test_a_mistake_on_one_device_is_told(images):
    pupil = Learner(defended(), SETTINGS, len(images.keys), 3, TWO)
    teacher = Adversarial(images, OnItself(pupil.copies, SETTINGS, 1), (), 3)
    pupil.copies[1].model.prepared = None
    with pytest.raises(TypeError):
        pupil.epoch(0, teacher, lambda _steps: None)
    assert not any(w.requires_grad for copy in pupil.copies for w in copy.trained)
