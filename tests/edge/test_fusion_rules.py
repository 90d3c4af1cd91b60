"""The fusion rules on votes whose result can be told by hand, and laws that all of them keep."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfusion_edge.fusion import MEAN, RULES, fuse, left_out

pytestmark = pytest.mark.processor

LIAR = np.array([[0.9, 0.1]] * 3 + [[0.0, 1.0]], np.float32)
"""Three members of one mind and one that is certain of the other class."""


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        ("mean-probabilities", 0.675),
        ("mean-logits", 1 / (1 + (0.1**3 / (0.9**3 * 1e-12)) ** 0.25)),  # the floor of 1e-12
        ("trimmed-mean", 0.9),
        ("median", 0.9),
    ],
)
def test_what_one_liar_among_four_achieves(rule, first):
    np.testing.assert_allclose(fuse(LIAR, rule), [first, 1 - first], rtol=1e-6)


def test_the_mean_of_logits_is_the_softmax_of_the_mean():
    logits = np.random.default_rng(0).normal(0, 3, (6, 5))
    powers = np.exp(logits)
    wanted = np.exp(logits.mean(0)) / np.exp(logits.mean(0)).sum()
    members = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    np.testing.assert_allclose(fuse(members, "mean-logits"), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "shares"),
    [
        ("mean-probabilities", {1: 0, 4: 0, 64: 0}),
        ("mean-logits", {1: 0, 4: 0, 64: 0}),
        ("trimmed-mean", {1: 0, 3: 0, 4: 1, 7: 1, 8: 2, 64: 16}),
        ("median", {1: 0, 2: 0, 3: 1, 4: 1, 7: 3, 8: 3, 64: 31}),
    ],
)
def test_how_many_votes_are_left_out_on_each_side(rule, shares):
    assert {members: left_out(rule, members) for members in shares} == shares


def test_medians_of_odd_and_even_numbers():
    votes = np.array([[0.1, 0.9], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], np.float32)
    np.testing.assert_allclose(fuse(votes[:3], "median"), [0.2, 0.8], rtol=1e-6)
    np.testing.assert_allclose(fuse(votes, "median"), [0.4, 0.6], rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 2**32 - 1), members=st.integers(1, 12), sharp=st.floats(0, 200))
def test_laws(rule, seed, members, sharp):
    """A distribution, whatever the order of members and classes; one mind is not changed."""
    draw = np.random.default_rng(seed)
    logits = sharp * draw.normal(0, 1, (members, 4))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    votes = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    fused = fuse(votes, rule)
    assert fused.dtype == np.float32
    assert fused.shape == (4,)
    assert (fused >= 0).all()
    assert fused.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(fuse(votes[::-1], rule), fused, atol=1e-6)
    np.testing.assert_allclose(fuse(votes[:, ::-1], rule), fused[::-1], atol=1e-6)
    alone = np.repeat(votes[:1], members, 0)
    np.testing.assert_allclose(fuse(alone, rule), votes[0], atol=1e-6)


def test_the_rule_of_a_plan_without_one_is_the_mean():
    assert MEAN == "mean-probabilities" == RULES[0]
    np.testing.assert_allclose(fuse(LIAR), LIAR.mean(0), rtol=1e-6)
