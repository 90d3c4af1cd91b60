"""The fusion rules, the scores and the verdict: the numpy reference of every runtime.

Fused prediction (Wang et al., IEEE TII 2023): ``argmax_c mean_k softmax(z_k)_c`` over M eroded
members. Scores: *feature variance* (relative variance of the penultimate features over members)
and *disagreement* (mutual information between member and class).

``mean-probabilities``  the mean over members
``mean-logits``         the softmax of mean logits: the geometric mean of probabilities of at least
                        1e-12, renormalised
``trimmed-mean``        class by class the mean without the lowest and the highest quarter of the
                        votes (rounded down, so none below four members), renormalised
``median``              class by class the median (of an even number: mean of the middle two),
                        renormalised

Renormalising adds 1e-12 to every class: where nothing is left, all classes are equally probable.
"""

from typing import Annotated, Literal, NamedTuple, get_args

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
State = Literal["accept", "suspect", "reject"]
FusionRule = Literal["mean-probabilities", "mean-logits", "trimmed-mean", "median"]

RULES: tuple[FusionRule, ...] = get_args(FusionRule)
MEAN: FusionRule = "mean-probabilities"
TINY = 1e-12


class Outputs(NamedTuple):
    """What one run of the exported graph gives for one image.

    Attributes:
        fused: [C] probabilities, the members' by the fusion rule.
        members: [M, C] probabilities of each member: K of the first base, K of the next.
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
        members: M, how many were fused.
    """

    label: int
    confidence: float
    state: State
    feature_variance: float
    disagreement: float
    members: int


def left_out(rule: FusionRule, members: int) -> int:
    """How many of the lowest votes for a class, and as many of the highest, a rule leaves out."""
    if rule == "median":
        return (members - 1) // 2
    return members // 4 if rule == "trimmed-mean" else 0


def fuse(members: Array, rule: FusionRule = MEAN) -> Array:
    """Fuse member probabilities by one of the module's rules: [M, C] -> [C], of sum 1."""
    wide = members.astype(np.float64)
    if rule == "mean-logits":
        votes = np.exp(np.log(np.maximum(wide, TINY)).mean(axis=0))
        return np.asarray(votes / votes.sum(), dtype=np.float32)
    cut = left_out(rule, len(wide))
    votes = np.sort(wide, axis=0)[cut : len(wide) - cut].mean(axis=0) + TINY
    return np.asarray(votes / votes.sum(), dtype=np.float32)


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
