"""Shares with their counts, means over targets, and bootstrap intervals of both."""

import msgspec
import numpy as np

RESAMPLES = 2000

Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


class Share(msgspec.Struct, frozen=True):
    """Hits of a total, with a 95 % percentile-bootstrap interval; value, low and high in [0, 1]."""

    hits: int
    total: int
    value: float
    low: float
    high: float


class Mean(msgspec.Struct, frozen=True):
    """Mean of several targets' rates on the same images; value, low and high in [0, 1].

    Attributes:
        targets: how many rates went into it.
        images: how many images the interval resamples.
        value: each target weighs the same.
        low, high: 95 % percentile-bootstrap interval over images, paired over targets.
    """

    targets: int
    images: int
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


def paired_mean(hits: Flags, counted: Flags, seed: int = 0) -> Mean | None:
    """Mean of rates that share their images: one resample of images serves all targets.

    Args:
        hits: [targets, images]; what succeeded.
        counted: [targets, images]; what a target's rate is taken over.
        seed: of the resampling.

    Returns:
        None if no target counts an image. A target that counts none is left out; so it is in a
        resample that happens to hold none of its images.

    Raises:
        ValueError: the shapes differ or are not [targets, images].
    """
    if hits.shape != counted.shape or hits.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"hits {hits.shape} and counted {counted.shape} must be [targets, images]")
    used = counted.any(axis=1)
    targets, images = int(used.sum()), hits.shape[1]
    if not targets:
        return None
    counted = counted[used]
    # Images that went alike for every target are alike: resampling them draws multinomial counts.
    kinds, often = np.unique(np.vstack([hits[used] & counted, counted]), axis=1, return_counts=True)
    won, of = kinds[:targets].astype(np.float64), kinds[targets:].astype(np.float64)
    drawn = np.random.default_rng(seed).multinomial(images, often / images, RESAMPLES)
    of_drawn = drawn @ of.T
    defined = of_drawn > 0
    rates = np.divide(drawn @ won.T, of_drawn, out=np.zeros_like(of_drawn), where=defined)
    some = defined.any(axis=1)
    means = rates.sum(axis=1)[some] / defined.sum(axis=1)[some]
    low, high = np.quantile(means, (0.025, 0.975))
    value = float(np.mean((won @ often) / (of @ often)))
    return Mean(targets, images, value, float(low), float(high))
