"""How well the two scores tell attacked images from clean ones: ranks, no library needed."""

from collections.abc import Sequence

import msgspec
import numpy as np

from deepfusion_toolkit.threats.outcome import Judged, Scores

SCORES = ("feature_variance", "disagreement")
RATES = (0.01, 0.05)


class Detection(msgspec.Struct, frozen=True):
    """One score against one attack.

    Attributes:
        score: feature_variance or disagreement.
        attacked, clean: how many scores were compared, redraws counted.
        auroc: chance that an attacked image scores above a clean one, ties half; 0.5 is a coin.
        true_positives_at_1, true_positives_at_5: share of attacked images above the limit that
            1 and 5 % of the clean ones pass.
        auroc_fooling: the same over attacked images that are wrong; None if there is none.
    """

    score: str
    attacked: int
    clean: int
    auroc: float
    true_positives_at_1: float
    true_positives_at_5: float
    auroc_fooling: float | None


def auroc(attacked: Scores, clean: Scores) -> float:
    """Area under the ROC curve, as the rank statistic of Mann and Whitney; both not empty."""
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, attacked, "left")
    not_above = np.searchsorted(ordered, attacked, "right")
    return float((below + not_above).mean() / (2 * len(ordered)))


def true_positive_rate(attacked: Scores, clean: Scores, rate: float) -> float:
    """Share of attacked scores above the limit that at most ``rate`` of the clean ones pass."""
    ordered = np.sort(clean)[::-1]
    limit = ordered[int(rate * len(ordered) + 1e-9)]
    return float((attacked > limit).mean())


def detections(attacked: Judged, truth: Sequence[int], clean: Judged) -> list[Detection]:
    """Hold every attacked image against every clean one, for both scores."""
    wrong = attacked.wrong(truth).ravel()
    found = []
    for name in SCORES:
        high, low = (np.array(getattr(judged, name)).ravel() for judged in (attacked, clean))
        at_1, at_5 = (true_positive_rate(high, low, rate) for rate in RATES)
        fooling = auroc(high[wrong], low) if wrong.any() else None
        found.append(Detection(name, len(high), len(low), auroc(high, low), at_1, at_5, fooling))
    return found
