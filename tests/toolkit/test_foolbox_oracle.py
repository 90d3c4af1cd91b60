"""Without erosion, memory and features, deep fusion is the basic iterative method of foolbox."""

import sys
import types
import warnings

import eagerpy
import pytest
import torch

from deepfusion_toolkit.attacks import Settings, attack
from deepfusion_toolkit.attacks.mean_logits import MeanLogits
from tests.toolkit import attack_nets as nets


@pytest.fixture
def foolbox(monkeypatch):
    """The library without its model zoo, which needs git and requests to download models."""
    zoo = types.ModuleType("foolbox.zoo")
    zoo.get_model = None
    monkeypatch.setitem(sys.modules, "foolbox.zoo", zoo)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy moved what foolbox imports
        import foolbox
    return foolbox


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("steps", "eps"), [(1, 8), (1, 16), (4, 8), (10, 16), (20, 6)])
def test_plain_deep_fusion_is_foolboxs_iteration(foolbox, steps, eps, targeted):
    surrogate = nets.unmoved(nets.classifier(nets.three))
    draw = torch.Generator().manual_seed(steps)
    clean = torch.randint(0, 256, (6, 3, *nets.SIZE), generator=draw) / 255
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    chosen = Settings(eps=eps, steps=steps, decay=0.0, feature_weight=0.0, targeted=targeted)
    ours = attack([surrogate], clean, labels, list("abcdef"), chosen).images

    iteration = foolbox.attacks.LinfBasicIterativeAttack
    if steps == 1 and not targeted:  # their one-step attack knows no targets
        library = foolbox.attacks.LinfFastGradientAttack()
        assert chosen.alpha == pytest.approx(eps / 255)
    else:
        library = iteration(abs_stepsize=chosen.alpha, steps=steps, random_start=False)
    if targeted:  # foolbox minimises cross-entropy there, we climb the target's logit
        library.get_loss_fn = lambda model, wanted: lambda x: -picked(model(x), wanted)
    network = foolbox.PyTorchModel(MeanLogits([surrogate]), bounds=(0, 1))
    named = foolbox.TargetedMisclassification if targeted else foolbox.Misclassification
    theirs = library.run(network, clean, named(labels), epsilon=eps / 255)
    differs = (ours - theirs).abs() > 1e-6
    assert differs.float().mean() < 0.001  # gradients so near 0 that rounding decides their sign


def picked(logits, wanted):
    return eagerpy.astensor(logits.raw.gather(1, wanted.raw[:, None]).sum())
