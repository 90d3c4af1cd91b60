"""One thread for torch, and the tiny trained networks, trained once."""

from functools import cache

import pytest
import torch

from deepfusion_toolkit.models import Classifier
from tests.toolkit import tiny_nets

torch.set_num_threads(1)

_trained = cache(tiny_nets.trained)


@pytest.fixture(params=sorted(tiny_nets.FAMILIES))
def tiny(request) -> Classifier:
    """Each family in turn; the weights are shared between tests and must not be changed."""
    return Classifier(_trained(request.param), name=request.param, size=tiny_nets.SIZE)


@pytest.fixture
def tiny_residual() -> Classifier:
    """The residual net, the caller's own copy."""
    return Classifier(tiny_nets.trained("residual"), name="residual", size=tiny_nets.SIZE)
