"""Rank statistics against a slow reference, and where they are known by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfusion_toolkit.threats.detection import auroc, detections, true_positive_rate
from deepfusion_toolkit.threats.outcome import Judged

few = st.lists(st.integers(0, 6), min_size=1, max_size=12).map(lambda v: np.array(v, float))


def slow(attacked, clean):
    pairs = [(a > c) + 0.5 * (a == c) for a in attacked for c in clean]
    return sum(pairs) / len(pairs)


@given(few, few)
def test_auroc_counts_pairs(attacked, clean):
    assert auroc(attacked, clean) == pytest.approx(slow(attacked, clean))
    assert auroc(clean, attacked) == pytest.approx(1 - slow(attacked, clean))


@given(few, few, st.sampled_from([0.01, 0.05, 0.3]))
def test_the_limit_lets_at_most_the_rate_of_clean_scores_pass(attacked, clean, rate):
    passing = [
        (np.mean(attacked > at), at) for at in sorted({*clean}) if np.mean(clean > at) <= rate
    ]
    assert true_positive_rate(attacked, clean, rate) == max(passing)[0]


def test_known_figures():
    clean = np.arange(100.0)
    assert auroc(clean + 1000, clean) == 1
    assert auroc(clean, clean) == 0.5
    assert true_positive_rate(np.array([98.5, 99.5, 97.0, 93.0]), clean, 0.01) == 0.5
    assert true_positive_rate(np.array([98.5, 99.5, 97.0, 93.0]), clean, 0.05) == 0.75


def test_both_scores_and_the_images_that_are_wrong():
    def judged(labels, variance, disagreement):
        return Judged([labels], [[False] * len(labels)], [variance], [disagreement])

    attacked = judged([0, 1, 1], [3.0, 1.0, 5.0], [0.0, 0.0, 0.0])
    clean = judged([0, 0], [2.0, 2.0], [0.0, 1.0])
    variance, disagreement = detections(attacked, [0, 0, 1], clean)
    assert (variance.score, variance.attacked, variance.clean) == ("feature_variance", 3, 2)
    assert variance.auroc == pytest.approx(2 / 3)
    assert variance.auroc_fooling == 0  # the second image alone is wrong, and scores below
    assert disagreement.auroc == 0.25
    assert detections(attacked, [0, 1, 1], clean)[0].auroc_fooling is None
