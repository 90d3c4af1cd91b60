"""The fused-prediction rule, its scores and the verdict: the numpy reference of every runtime.

Fused prediction (Wang et al., IEEE TII 2023): ``argmax_c mean_k softmax(z_k)_c`` over K eroded
members. Scores: *feature variance* (relative variance of the penultimate features over members)
and *disagreement* (mutual information between member and class).
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
State = Literal["accept", "suspect", "reject"]

TINY = 1e-12


class Outputs(NamedTuple):
    """What one run of the exported graph gives for one image.

    Attributes:
        fused: [C] probabilities, the mean over members.
        members: [K, C] probabilities of each member.
        feature_variance: at least 0; 0 when all members see the same features.
    """

    fused: Array
    members: Array
    feature_variance: float


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which score on a frame is suspect, and from which it is rejected (None: never)."""

    suspect: Annotated[float, msgspec.Meta(ge=0.0)] | None
    reject: Annotated[float, msgspec.Meta(ge=0.0)] | None


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calibrated limits of the two scores and the false-positive rate they were set for."""

    feature_variance: Threshold
    disagreement: Threshold
    false_positive_rate: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]
    calibration_images: Annotated[int, msgspec.Meta(ge=0)]


class Verdict(msgspec.Struct, frozen=True):
    """The decision on one frame.

    Attributes:
        label: index of the fused class.
        confidence: its fused probability.
        state: accept, suspect (one score over its limit) or reject.
        feature_variance: the feature-space score.
        disagreement: the softmax-space score, in nats.
        members: K.
    """

    label: int
    confidence: float
    state: State
    feature_variance: float
    disagreement: float
    members: int


def fuse(members: Array) -> Array:
    """Mean of member probabilities: [K, C] -> [C]."""
    return np.asarray(members.mean(axis=0), dtype=np.float32)


def feature_variance(features: Array) -> float:
    """Relative variance of features [K, D]: sum of variances over sum of squared means."""
    wide = features.astype(np.float64)
    return float(wide.var(axis=0).sum() / (np.square(wide.mean(axis=0)).sum() + TINY))


def disagreement(members: Array) -> float:
    """Mutual information (nats) of member and class, H(mean) - mean H: [K, C] -> at least 0."""
    wide = members.astype(np.float64)
    mean = wide.mean(axis=0)
    entropy_of_mean = -(mean * np.log(mean + TINY)).sum()
    mean_entropy = -(wide * np.log(wide + TINY)).sum(axis=1).mean()
    return max(0.0, float(entropy_of_mean - mean_entropy))


def judge(outputs: Outputs, thresholds: Thresholds | None) -> Verdict:
    """Turn one run into a verdict; without calibrated thresholds every frame is accepted."""
    score = disagreement(outputs.members)
    label = int(np.argmax(outputs.fused))
    state: State = "accept"
    if thresholds is not None:
        pairs = (
            (outputs.feature_variance, thresholds.feature_variance),
            (score, thresholds.disagreement),
        )
        if any(t.reject is not None and s >= t.reject for s, t in pairs):
            state = "reject"
        elif any(t.suspect is not None and s >= t.suspect for s, t in pairs):
            state = "suspect"
    return Verdict(
        label=label,
        confidence=float(outputs.fused[label]),
        state=state,
        feature_variance=outputs.feature_variance,
        disagreement=score,
        members=len(outputs.members),
    )
