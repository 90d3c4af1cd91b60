"""Thresholds of the two scores from held-out clean images, at a named false-positive rate."""

from collections.abc import Sequence
from math import ceil

import numpy as np

from deepfusion_edge.fusion import Threshold, Thresholds, Verdict


def limit(scores: Sequence[float], rate: float) -> float | None:
    """The conformal quantile: a new clean score reaches it with probability at most ``rate``.

    None if there are fewer than ``1 / rate - 1`` scores: no limit can then keep the promise.
    """
    count = len(scores)
    rank = ceil((count + 1) * (1 - rate))
    if rank > count:
        return None
    return float(np.nextafter(np.sort(scores)[rank - 1], np.inf))


def calibrate(clean: Sequence[Verdict], rate: float) -> Thresholds:
    """Set both scores to share the false-positive rate; rejection takes a tenth of it."""
    variance = [v.feature_variance for v in clean]
    softmax = [v.disagreement for v in clean]
    each = rate / 2
    return Thresholds(
        feature_variance=Threshold(limit(variance, each), limit(variance, each / 10)),
        disagreement=Threshold(limit(softmax, each), limit(softmax, each / 10)),
        false_positive_rate=rate,
        calibration_images=len(clean),
    )
