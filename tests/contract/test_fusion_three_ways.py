"""numpy = torch = ONNX Runtime for the fusion rule and the scores, on random inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepfusion_edge import fusion
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.onnx import FusedGraph, to_onnx
from deepfusion_export.parity import softmax

LOGITS, FEATURES = 5, 7


class PassThrough(nn.Module):
    """The factors are the logits and the features: fusion alone is exported."""

    def forward(self, image, factors):
        logits, features = torch.split(factors, [LOGITS, FEATURES], 1)
        return logits + 0 * image.mean(), features


class Eroded:
    graph_module, size, width, name = PassThrough(), (2, 2), LOGITS + FEATURES, "pass-through"


@pytest.fixture(scope="module")
def session():
    torch.set_num_threads(1)
    return OrtSession(to_onnx(Eroded(), 3), threads=1)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    members=st.integers(1, 32),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1000.0]),
    offset=st.sampled_from([0.0, 1.0, -20.0]),
)
def test_three_routes_agree(session, seed, members, scale, offset):
    rng = np.random.default_rng(seed)
    rows = rng.normal(offset, 1.0, (members, LOGITS + FEATURES)) * scale
    factors = rows.astype(np.float32)
    image = np.zeros((1, 3, 2, 2), np.float32)
    probabilities = softmax(factors[:, :LOGITS])
    variance = fusion.feature_variance(factors[:, LOGITS:])
    with torch.no_grad():
        route = FusedGraph(Eroded())(torch.from_numpy(image), torch.from_numpy(factors))
    routes = [session.run(image, factors), fusion.Outputs(*(value.numpy() for value in route))]
    for outputs in routes:
        np.testing.assert_allclose(outputs.members, probabilities, atol=1e-6)
        np.testing.assert_allclose(outputs.fused, fusion.fuse(probabilities), atol=1e-6)
        assert float(outputs.feature_variance) == pytest.approx(variance, rel=1e-3, abs=1e-9)
        score = fusion.disagreement(outputs.members)
        assert score == pytest.approx(fusion.disagreement(probabilities), abs=1e-5)


def test_known_values(session):
    """Features 1 and 3: variance 1 over squared mean 4; certain opposite votes disagree by ln 2."""
    factors = np.zeros((2, LOGITS + FEATURES), np.float32)
    factors[0, 0] = factors[1, 1] = 100
    factors[:, LOGITS] = 1, 3
    outputs = session.run(np.zeros((1, 3, 2, 2), np.float32), factors)
    assert outputs.feature_variance == pytest.approx(0.25)
    np.testing.assert_allclose(outputs.fused, [0.5, 0.5, 0, 0, 0], atol=1e-7)
    assert fusion.disagreement(outputs.members) == pytest.approx(np.log(2), abs=1e-6)
