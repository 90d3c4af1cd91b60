"""Robust accuracy where it is known exactly, interrupted runs, and files of other runs."""

from functools import cache

import pytest
import torch

from deepfusion_edge.errors import InputError, ModelError, UsageError
from deepfusion_toolkit.attacks.parts import Effort
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.robustness import robust_accuracy
from tests.toolkit import attack_nets as nets

EFFORT = Effort(iterations=20, queries=20)
CLASSES = 5


@cache
def problem():
    """A linear net, images, labels of which the last is wrong, and distances to other classes."""
    draw = torch.Generator().manual_seed(1)
    weight = 0.05 * torch.randn(CLASSES, nets.PIXELS, generator=draw)
    images = 0.3 + 0.4 * torch.rand(8, 3, *nets.SIZE, generator=draw)
    logits = (images.flatten(1) + 1) @ weight.T
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    reach = (weight[labels][:, None] - weight[None]).norm(p=1, dim=2)
    distances = 255 * (gaps / reach).scatter(1, labels[:, None], float("inf")).amin(1)
    labels[-1] = (labels[-1] + 1) % CLASSES
    return weight, images, labels, distances


def model(make=Classifier):
    return make(nets.Linear(problem()[0]), name="linear", size=nets.SIZE)


class Interrupted(Classifier):
    """Runs for so many calls."""

    calls = 10**9

    def forward(self, image):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().forward(image)


@pytest.mark.parametrize("version", ["standard", "plus"])
def test_exactly_the_images_beyond_epsilon_stay(version):
    _, images, labels, distances = problem()
    ordered = distances[:-1].sort().values
    widest = int((ordered[1:] / ordered[:-1])[1:-1].argmax()) + 1
    low, high = float(ordered[widest]), float(ordered[widest + 1])
    assert high > 1.05 * low  # 20 iterations come within 2 % of the corner
    eps = (low + high) / 2
    network = model()
    before = torch.get_rng_state()
    found = robust_accuracy(network, images, labels, eps, version=version, effort=EFFORT, batch=3)
    assert found.survivors == [bool(d > eps) for d in distances[:-1]] + [False]
    wanted = 7 - widest - 1
    assert (found.clean.hits, found.robust.hits, found.robust.total) == (7, wanted, 8)
    assert found.standing[-1] == wanted
    assert sorted(found.standing, reverse=True) == found.standing
    assert len(found.standing) == len(found.parts)
    assert "4 of 9" in found.note
    assert found.doubts == []
    assert torch.equal(torch.get_rng_state(), before)


class Rounding(nets.Linear):
    """Its gradients are zero everywhere."""

    def forward(self, image):
        return super().forward(image.round())


def test_the_librarys_doubts_are_reported():
    weight, images, _, _ = problem()
    network = Classifier(Rounding(weight), name="rounding", size=nets.SIZE)
    found = robust_accuracy(network, images, network(images).argmax(1), 4, effort=EFFORT)
    assert any("zero gradient" in doubt for doubt in found.doubts)


def test_an_interrupted_run_goes_on(tmp_path):
    _, images, labels, _ = problem()
    state = tmp_path / "state.json"
    whole = robust_accuracy(model(), images, labels, 4, seed=3, effort=EFFORT)
    broken = model(Interrupted)
    broken.calls = 200
    with pytest.raises(KeyboardInterrupt):
        robust_accuracy(broken, images, labels, 4, seed=3, effort=EFFORT, state=state)
    assert state.is_file()
    again = model(Interrupted)
    assert robust_accuracy(again, images, labels, 4, seed=3, effort=EFFORT, state=state) == whole
    spent = Interrupted.calls - again.calls
    fresh = model(Interrupted)
    robust_accuracy(fresh, images, labels, 4, seed=3, effort=EFFORT)
    assert spent < Interrupted.calls - fresh.calls
    finished = model(Interrupted)
    finished.calls = 0
    assert robust_accuracy(finished, images, labels, 4, seed=3, effort=EFFORT, state=state) == whole


@pytest.mark.parametrize(
    "change", [{"eps": 5}, {"seed": 1}, {"effort": Effort(iterations=21)}, {"batch": 2}]
)
def test_a_state_of_other_settings_is_refused(tmp_path, change):
    _, images, labels, _ = problem()
    plain = {"eps": 4, "effort": Effort(iterations=1, queries=1), "state": tmp_path / "state.json"}
    robust_accuracy(model(), images[:2], labels[:2], **plain)
    with pytest.raises(InputError, match="belongs to other images"):
        robust_accuracy(model(), images[:2], labels[:2], **plain | change)
    with pytest.raises(InputError, match="belongs to other images"):
        robust_accuracy(model(), images[1:3], labels[1:3], **plain)


def test_a_damaged_state_is_refused(tmp_path):
    _, images, labels, _ = problem()
    state = tmp_path / "state.json"
    state.write_text('{"identity": 3')
    with pytest.raises(InputError, match="is damaged"):
        robust_accuracy(model(), images, labels, 4, state=state)


def test_what_cannot_be_judged_is_refused():
    _, images, labels, _ = problem()
    with pytest.raises(UsageError, match="epsilon"):
        robust_accuracy(model(), images, labels, 0.5)
    with pytest.raises(UsageError, match="no version 'rand'"):
        robust_accuracy(model(), images, labels, 4, version="rand")
    with pytest.raises(ModelError, match=r"gives \(2, 1\) for two images"):
        Classifier(nets.Linear(problem()[0][:1]), name="one", size=nets.SIZE)
