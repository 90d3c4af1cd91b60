"""Limits of the two scores from held-out clean images, at a named false-positive rate.

Both scores share one rate. Their limits are order statistics of one rank, chosen so that the rate
is that of images which reach *either*; with half of it for each score, only half would be used
where the scores agree. The promise is that of conformal prediction (Vovk et al., 2005): a new clean
image, exchangeable with those of the calibration, is flagged with probability at most the rate.
"""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from deepfusion_edge.errors import InputError
from deepfusion_edge.fusion import Threshold, Thresholds, Verdict

Scores = npt.NDArray[np.float64]

REJECT = 0.1
"""Part of the false-positive rate at which clean images may be rejected, not only suspect."""
_SCORES = 2
_NOISE = 1e-9


def images_needed(rate: float) -> int:
    """The least number of held-out clean images that always have limits at a rate in (0, 1)."""
    return ceil(_SCORES / rate - _NOISE) - 1


def require_images(count: int, rate: float) -> None:
    """Refuse a calibration that could not keep its promise.

    Raises:
        InputError: saying how many images are needed, and which rate so many allow.
    """
    needed = images_needed(rate)
    if count < needed:
        least = ceil(1000 * _SCORES / (count + 1)) / 1000
        instead = f", or name a false-positive rate of {least:g} or more" if least < 1 else ""
        raise InputError(
            f"{count} held-out clean images are too few for a false-positive rate of {rate:g}:"
            f" {needed} are needed",
            f"add images{instead}",
        )


def joint_limits(clean: Scores, rate: float) -> tuple[float, float]:
    """Limits of two scores; a new clean image reaches one of them with at most a probability.

    Of the N images and a new one, ``k = rate * (N + 1)`` may be flagged, whichever is the new one.
    An image's worst rank is the larger of its ranks in the two scores. No more than k are flagged
    if at most ``k - 1`` of the N have a worst rank above the limits' rank less one (a new image can
    raise the rank of another by one), and neither if each score flags k / 2.

    Args:
        clean: [N, 2] scores of held-out clean images.
        rate: the probability, in (0, 1), if the new image is exchangeable with the N.

    Raises:
        InputError: N is too small, see ``require_images``.
    """
    count = len(clean)
    require_images(count, rate)
    ordered = np.sort(clean, axis=0)
    worst = 1 + np.max([np.searchsorted(o, s) for o, s in zip(ordered.T, clean.T, strict=True)], 0)
    flagged = floor(rate * (count + 1) + _NOISE)
    rank = min(int(np.sort(worst)[count - flagged]) + 1, count + 1 - flagged // _SCORES)
    first, second = np.nextafter(ordered[rank - 1], np.inf).tolist()
    return first, second


def calibrate(clean: Sequence[Verdict], rate: float) -> Thresholds:
    """Set the limits of both scores; without enough images for a tenth of the rate, none rejects.

    Args:
        clean: held-out clean images, judged over the number of members that the limits are for.
        rate: share of clean images that may be flagged, in (0, 1).

    Raises:
        InputError: too few images, see ``require_images``.
    """
    found = np.array([(v.feature_variance, v.disagreement) for v in clean], dtype=np.float64)
    suspect, reject = joint_limits(found, rate), None
    if len(clean) >= images_needed(rate * REJECT):
        reject = joint_limits(found, rate * REJECT)
    both = zip(suspect, reject or (None, None), strict=True)
    variance, softmax = (Threshold(*limits) for limits in both)
    return Thresholds(variance, softmax, rate, len(clean))


def no_rejection(thresholds: Thresholds | None) -> str | None:
    """Say why nothing is ever rejected, only suspect; None if there is nothing to say."""
    if thresholds is None or thresholds.feature_variance.reject is not None:
        return None
    needed = images_needed(thresholds.false_positive_rate * REJECT)
    return f"none: {thresholds.calibration_images} held-out images, {needed} are needed"
