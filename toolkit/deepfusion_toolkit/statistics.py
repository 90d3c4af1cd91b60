"""Shares with their counts and bootstrap intervals."""

import msgspec
import numpy as np

RESAMPLES = 2000


class Share(msgspec.Struct, frozen=True):
    """Hits of a total, with a 95 % percentile-bootstrap interval; value, low and high in [0, 1]."""

    hits: int
    total: int
    value: float
    low: float
    high: float


def share(hits: int, total: int, seed: int = 0) -> Share:
    """Resample images with replacement (Efron, 1979); 0 of 0 has the interval [0, 1]."""
    if total == 0:
        return Share(0, 0, 0.0, 0.0, 1.0)
    value = hits / total
    # resampling a 0/1 sample with replacement draws binomial counts
    draws = np.random.default_rng(seed).binomial(total, value, RESAMPLES) / total
    low, high = np.quantile(draws, (0.025, 0.975))
    return Share(hits, total, value, float(low), float(high))
