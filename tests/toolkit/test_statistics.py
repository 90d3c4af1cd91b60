"""Intervals: known cases, the paired bootstrap against doing it image by image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deepfusion_toolkit.statistics import RESAMPLES, paired_mean, share

FLAGS = arrays.arrays(
    np.bool_, st.tuples(st.just(2), st.integers(1, 4), st.integers(1, 30))
)  # [hits or counted, targets, images]


def flags(*rows):
    return np.array([[c == "x" for c in row] for row in rows])


def test_each_target_weighs_the_same():
    hits = flags("xx..", "x...")
    counted = flags("xxxx", "x...")  # 2 of 4 and 1 of 1
    found = paired_mean(hits, counted)
    assert (found.targets, found.images) == (2, 4)
    assert found.value == pytest.approx((0.5 + 1.0) / 2)


def test_what_is_not_counted_is_no_hit():
    found = paired_mean(flags("xxxx"), flags("xx.."))
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_a_target_without_counted_images_is_left_out():
    found = paired_mean(flags("x...", "xxxx"), flags("xxxx", "...."))
    assert (found.targets, found.value) == (1, 0.25)
    assert paired_mean(flags("xx"), flags("..")) is None


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"must be \[targets, images\]"):
        paired_mean(flags("xx"), flags("x"))
    with pytest.raises(ValueError, match=r"must be \[targets, images\]"):
        paired_mean(np.ones(3, dtype=bool), np.ones(3, dtype=bool))


def test_one_target_has_the_interval_of_its_share():
    hits = np.arange(80) < 24
    found, alone = paired_mean(hits[None], np.ones((1, 80), dtype=bool)), share(24, 80)
    assert found.value == alone.value
    assert found.low == pytest.approx(alone.low, abs=0.03)
    assert found.high == pytest.approx(alone.high, abs=0.03)


def test_pairing_matters():
    """Targets that fail together have the interval of one; opposite ones have none."""
    half = np.arange(100) < 50
    every = np.ones((2, 100), dtype=bool)
    together, opposite = (paired_mean(np.array([half, o]), every) for o in (half, ~half))
    alone = paired_mean(half[None], every[:1])
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), abs=0.03)
    assert (opposite.value, opposite.low, opposite.high) == (0.5, 0.5, 0.5)


def test_kinds_of_images_stand_for_the_images():
    rng = np.random.default_rng(3)
    hits, counted = rng.random((3, 60)) < 0.4, rng.random((3, 60)) < 0.7
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, 60, 60)
        won = (hits & counted)[:, drawn].sum(1)
        means.append((won / counted[:, drawn].sum(1)).mean())
    found = paired_mean(hits, counted)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.02)


@settings(max_examples=60, deadline=None)
@given(FLAGS)
def test_the_interval_holds_its_bounds(both):
    hits, counted = both
    found = paired_mean(hits, counted)
    if found is None:
        assert not counted.any()
        return
    assert 0 <= found.low <= found.high <= 1
    assert 0 <= found.value <= 1
    assert found == paired_mean(hits, counted)  # seeded
    turned = np.random.default_rng(0).permutation(hits.shape[1])
    assert found == paired_mean(hits[:, turned], counted[:, turned])  # images have no order
