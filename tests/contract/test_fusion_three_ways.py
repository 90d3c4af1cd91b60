"""numpy = torch = ONNX Runtime for the fusion rules and the scores, on random inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepfusion_edge import fusion
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.fusion import RULES
from deepfusion_edge.runtime.engine import Span, build
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.onnx import FusedGraph, to_onnx
from deepfusion_export.parity import softmax
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.surgery import Seen

LOGITS, FEATURES = 5, 7
BLACK = np.zeros((1, 3, 2, 2), np.float32)


class PassThrough(nn.Module):
    """The factors are the logits and the features: fusion alone is exported."""

    size, width, sites, name = (2, 2), LOGITS + FEATURES, (), "pass-through"
    several = False

    def forward(self, image, factors):
        logits, features = torch.split(factors, [LOGITS, FEATURES], 1)
        return Seen(logits + 0 * image.mean(), features, ())


@pytest.fixture(scope="module", params=RULES)
def exported(request):
    """A rule, the defence that fuses by it, and its graph."""
    torch.set_num_threads(1)
    defended = Defended(PassThrough(), rule=request.param)
    return request.param, defended, to_onnx(defended, 3)


@pytest.fixture(scope="module")
def routes(exported):
    """A rule, and torch and ONNX Runtime as functions of factors."""
    rule, defended, model = exported
    check_onnx(model)
    session, graph = OrtSession(model, threads=1), FusedGraph(defended)

    def in_torch(factors):
        with torch.no_grad():
            found = graph(torch.from_numpy(BLACK), torch.from_numpy(factors))
        return fusion.Outputs(*(value.numpy() for value in found))

    return rule, (in_torch, lambda factors: session.run(BLACK, factors))


def agree(routes, factors):
    rule, ways = routes
    probabilities = softmax(factors[:, :LOGITS])
    fused = fusion.fuse(probabilities, rule)
    variance = fusion.feature_variance(factors[:, LOGITS:])
    for way in ways:
        outputs = way(factors)
        np.testing.assert_allclose(outputs.members, probabilities, atol=1e-6)
        np.testing.assert_allclose(outputs.fused, fused, atol=1e-5)
        np.testing.assert_allclose(outputs.fused.sum(), 1, atol=1e-5)
        assert float(outputs.feature_variance) == pytest.approx(variance, rel=1e-3, abs=1e-9)
        score = fusion.disagreement(outputs.members)
        assert score == pytest.approx(fusion.disagreement(probabilities), abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    members=st.integers(1, 64),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1000.0]),
    offset=st.sampled_from([0.0, 1.0, -20.0]),
)
def test_three_routes_agree(routes, seed, members, scale, offset):
    rng = np.random.default_rng(seed)
    rows = rng.normal(offset, 1.0, (members, LOGITS + FEATURES)) * scale
    agree(routes, rows.astype(np.float32))


@pytest.mark.parametrize("members", [1, 2, 7, 8, 64])
def test_one_graph_fuses_any_number_of_members(routes, members):
    draw = np.random.default_rng(members)
    agree(routes, draw.normal(0, 2, (members, LOGITS + FEATURES)).astype(np.float32))


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
def test_a_real_tensorrt_takes_every_rule(exported):
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is for x86-64 alone")
    assert len(build(rtx, exported[2], Span(1, 3, 64)).engine) > 1000


def test_members_that_are_all_certain_of_another_class_leave_no_nan(routes):
    """The median of every class is then zero; nothing may divide by it."""
    factors = np.zeros((LOGITS, LOGITS + FEATURES), np.float32)
    factors[:, :LOGITS] = 200 * np.eye(LOGITS)
    agree(routes, factors)
    for way in routes[1]:
        np.testing.assert_allclose(way(factors).fused, np.full(LOGITS, 0.2), atol=1e-6)


def test_known_values(routes):
    """Features 1 and 3: variance 1 over squared mean 4; certain opposite votes disagree by ln 2."""
    factors = np.zeros((2, LOGITS + FEATURES), np.float32)
    factors[0, 0] = factors[1, 1] = 100
    factors[:, LOGITS] = 1, 3
    for way in routes[1]:
        outputs = way(factors)
        assert float(outputs.feature_variance) == pytest.approx(0.25)
        np.testing.assert_allclose(outputs.fused[:2], [0.5, 0.5], atol=1e-5)
        assert fusion.disagreement(outputs.members) == pytest.approx(np.log(2), abs=1e-6)
