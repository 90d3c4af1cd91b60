"""Limits that keep a false-positive rate on new images, and shares with their intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.fusion import Verdict
from deepfusion_toolkit.calibrate import calibrate, limit
from deepfusion_toolkit.statistics import share


def test_known_limits():
    scores = [float(n) for n in range(1, 100)]
    assert limit(scores, 0.01) == np.nextafter(99.0, np.inf)
    assert limit(scores[:98], 0.01) is None
    assert limit(scores, 0.5) == np.nextafter(50.0, np.inf)
    assert limit(scores[::-1], 0.1) == np.nextafter(90.0, np.inf)
    assert limit([], 0.5) is None
    assert limit([3.0], 0.5) == np.nextafter(3.0, np.inf)


@settings(deadline=None, max_examples=100)
@given(
    scores=st.lists(st.floats(0, 10), min_size=2, max_size=150),
    rate=st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.25, 0.5]),
)
def test_a_new_exchangeable_score_is_flagged_at_most_at_the_rate(scores, rate):
    """Leave each one out in turn: that is what 'exchangeable' averages over."""
    flagged = 0
    for at, new in enumerate(scores):
        bound = limit(scores[:at] + scores[at + 1 :], rate)
        flagged += bound is not None and new >= bound
    assert flagged <= rate * len(scores) + 1e-9


@settings(deadline=None, max_examples=50)
@given(count=st.integers(0, 400), rate=st.sampled_from([0.005, 0.01, 0.05, 0.1, 0.5]))
def test_too_few_scores_have_no_limit(count, rate):
    assert (limit([1.0] * count, rate) is None) == (count < round(1 / rate) - 1)


def test_equal_scores_are_not_flagged():
    assert limit([0.0] * 200, 0.01) > 0.0


def verdict(variance, softmax):
    return Verdict(0, 0.9, "accept", variance, softmax, 8)


def test_two_scores_share_the_rate_and_rejection_takes_a_tenth():
    clean = [verdict(float(n), 1000.0 - n) for n in range(1, 400)]
    found = calibrate(clean, 0.02)  # 1 % each, rejection 0.1 % each
    assert found.feature_variance.suspect == np.nextafter(396.0, np.inf)
    assert found.disagreement.suspect == np.nextafter(996.0, np.inf)
    assert found.feature_variance.reject is None
    assert found.false_positive_rate == 0.02
    assert found.calibration_images == 399
    many = calibrate([verdict(float(n), float(n)) for n in range(1, 2000)], 0.02)
    assert many.feature_variance.reject == np.nextafter(1998.0, np.inf)
    assert calibrate(clean[:10], 0.02).feature_variance.suspect is None


def test_shares_with_certain_intervals():
    nothing = share(0, 0)
    assert (nothing.hits, nothing.total, nothing.value) == (0, 0, 0.0)
    assert (nothing.low, nothing.high) == (0.0, 1.0)
    assert (share(40, 40).low, share(40, 40).high) == (1.0, 1.0)
    assert (share(0, 40).low, share(0, 40).high) == (0.0, 0.0)


def test_an_interval_is_that_of_the_binomial():
    half = share(50, 100)
    assert half.value == 0.5
    assert half.low == pytest.approx(0.4, abs=0.011)  # 0.5 -+ 1.96 * 0.05
    assert half.high == pytest.approx(0.6, abs=0.011)
    assert half.low + half.high == pytest.approx(1.0, abs=0.021)
    wide, narrow = share(5, 10), share(500, 1000)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    assert share(50, 100) == half
