"""Limits that keep a false-positive rate on new images, and shares with their intervals."""

from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.errors import InputError
from deepfusion_edge.fusion import Verdict
from deepfusion_toolkit.calibrate import calibrate, images_needed, joint_limits, no_rejection
from deepfusion_toolkit.statistics import share

RATES = st.sampled_from([0.05, 0.1, 0.25, 0.4])


def verdict(variance, softmax, members=8):
    return Verdict(0, 0.9, "accept", variance, softmax, members)


def flagged(scores, limits):
    return (np.atleast_2d(scores) >= limits).any(1)


@settings(deadline=None, max_examples=80)
@given(
    scores=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=41, max_size=80),
    rate=RATES,
)
def test_either_score_of_a_new_exchangeable_image_is_reached_at_most_at_the_rate(scores, rate):
    """Leave each one out in turn: that is what 'exchangeable' averages over. Ties included."""
    array = np.array(scores, np.float64)
    total = sum(
        flagged(array[n], joint_limits(np.delete(array, n, 0), rate))[0] for n in range(len(array))
    )
    assert total <= rate * len(array) + 1e-9


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    correlation=st.floats(-1, 1),
    count=st.integers(300, 3000),
    rate=st.sampled_from([0.01, 0.02, 0.05, 0.1]),
)
def test_the_rate_is_used_up_however_the_scores_agree(seed, correlation, count, rate):
    """On its own calibration images too: not more than the rate, and at most four images less."""
    draw = np.random.default_rng(seed).standard_normal((count, 2))
    draw[:, 1] = correlation * draw[:, 0] + np.sqrt(1 - correlation**2) * draw[:, 1]
    reached = int(flagged(draw, joint_limits(draw, rate)).sum())
    most = floor(rate * (count + 1) + 1e-9)
    assert most - 4 <= reached <= most


def test_the_rate_holds_within_half_a_point_on_new_images_where_halves_lose_half_of_it():
    draw = np.random.default_rng(0).standard_normal((200_000, 1)).repeat(2, 1)
    reached = [
        flagged(draw[n : n + 4000][3000:], joint_limits(draw[n : n + 3000], 0.01)).mean()
        for n in range(0, 200_000, 4000)
    ]
    assert np.mean(reached) == pytest.approx(0.01, abs=0.001)


@settings(deadline=None, max_examples=50)
@given(rate=st.floats(0.005, 0.5), seed=st.integers(0, 1000))
def test_the_number_that_is_needed_is_enough_and_one_less_is_not(rate, seed):
    needed = images_needed(rate)
    draw = np.random.default_rng(seed).random((needed, 2))
    assert flagged(draw, joint_limits(draw, rate)).sum() <= rate * (needed + 1)
    with pytest.raises(InputError, match=f"{needed} are needed"):
        joint_limits(draw[1:], rate)


def test_known_numbers_and_limits():
    assert images_needed(0.01) == 199
    assert images_needed(0.5) == 3
    rising = np.arange(1.0, 200.0)
    same, opposite = np.stack([rising, rising], 1), np.stack([rising, rising[::-1]], 1)
    # of 199 images and a new one, two may be flagged: each score's largest, or one image's both
    assert joint_limits(same, 0.01) == (np.nextafter(199, np.inf),) * 2
    assert joint_limits(opposite, 0.01) == (np.nextafter(199, np.inf),) * 2
    # eight may: the largest six or seven if the scores agree, three of each if they disagree
    assert joint_limits(same, 0.04) == (np.nextafter(193, np.inf),) * 2
    assert joint_limits(opposite, 0.04) == (np.nextafter(196, np.inf),) * 2
    assert joint_limits(same[::-1], 0.04) == joint_limits(same, 0.04)


def test_equal_scores_are_not_flagged():
    assert not flagged(np.zeros((1, 2)), joint_limits(np.zeros((300, 2)), 0.01)).any()


def test_rejection_takes_a_tenth_where_there_are_images_enough():
    clean = [verdict(float(n), float(n)) for n in range(1, 2000)]
    found = calibrate(clean, 0.01)
    assert found.feature_variance.suspect == np.nextafter(1981, np.inf)
    assert found.feature_variance.reject == found.disagreement.reject == np.nextafter(1999, np.inf)
    assert (found.false_positive_rate, found.calibration_images) == (0.01, 1999)
    assert no_rejection(found) is None
    few = calibrate(clean[:1998], 0.01)
    assert few.feature_variance.suspect is not None
    assert few.feature_variance.reject is few.disagreement.reject is None
    assert no_rejection(few) == "none: 1998 held-out images, 1999 are needed"
    assert no_rejection(None) is None


@pytest.mark.parametrize(("count", "rate", "instead"), [(198, 0.01, "0.011"), (9, 0.1, "0.2")])
def test_too_few_images_are_refused_with_the_number_that_is_needed(count, rate, instead):
    with pytest.raises(InputError) as caught:
        calibrate([verdict(1.0, 1.0)] * count, rate)
    assert f"{count} held-out clean images are too few" in caught.value.what
    assert f"{images_needed(rate)} are needed" in caught.value.what
    assert f"a false-positive rate of {instead} or more" in caught.value.remedy
    calibrate([verdict(1.0, 1.0)] * count, float(instead))


def test_one_image_allows_no_rate_at_all():
    with pytest.raises(InputError) as caught:
        calibrate([verdict(1.0, 1.0)], 0.5)
    assert caught.value.remedy == "add images"


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
