"""The adaptive policy: how many members begin, and its limits, for a mean cost on clean frames."""

from collections.abc import Sequence
from math import log
from typing import NamedTuple

import numpy as np

from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import Verdict
from deepfusion_edge.policy import Policy, Trend, Usual
from deepfusion_toolkit.adaptive import looks
from deepfusion_toolkit.calibrate import calibrate, joint_limits
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.defence import Defended, verdicts
from deepfusion_toolkit.surgery import Work

FEWEST = 2
"""Members that have a score: one alone cannot disagree."""
GOAL = 1.3
"""Plain inferences that a clean frame may cost in the mean."""
MEMORY = 32
"""Frames that the trend remembers."""
FALSE_ALARM = 1e-6
"""Chance, at any one frame of a clean stream, that the trend is up."""
_SPENT = 0.5
"""Part of the allowance that is aimed at; streams differ from the calibration images."""


class Found(NamedTuple):
    """A policy, if there is one.

    Attributes:
        policy: None where there is none.
        accuracy: with it, on the held-out images, in [0, 1].
        doubts: why there is none, or what it costs; a sentence each.
    """

    policy: Policy | None
    accuracy: float | None
    doubts: list[str]


def allowance(start: int, members: int, work: Work, goal: float) -> float:
    """Share of frames that may go on from ``start`` to ``members`` if the mean cost is ``goal``."""
    return (goal - work.cost(start)) / work.cost(members)


def starts(members: int, work: Work, *, rate: float, goal: float = GOAL) -> list[int]:
    """With how many members a policy can begin and keep the goal.

    Half of the allowance must be as many as may be flagged: both these and the unusual go on.

    Raises:
        ModelError: with none; saying how much of the work members must share.
    """
    found = [
        start
        for start in range(FEWEST, members)
        if _SPENT * allowance(start, members, work, goal) >= rate
    ]
    if not found:
        least = least_prefix_share(members, rate=rate, goal=goal / work.network)
        raise ModelError(
            f"no policy over {members} members keeps a mean of {goal:g} plain inferences: members"
            f" share {work.shared:.0%} of the work",
            f"erode later layers, so that they share {least:.1%}, or allow a higher cost",
        )
    return found


def least_prefix_share(members: int, *, rate: float, goal: float = GOAL) -> float:
    """The least share of common multiply-adds at which ``starts`` finds one.

    Args:
        members: K, at least 3.
        rate: false-positive rate.
        goal: runs of the network a clean frame, above 1.
    """
    least = rate / _SPENT
    own = (goal - 1 - least) / (FEWEST - 1 + least * (members - 1))
    return min(1.0, max(0.0, 1 - own))


def choose(
    defended: Defended,
    held_out: Dataset,
    full: Sequence[Verdict],
    *,
    members: int,
    work: Work,
    rate: float,
    seed: int,
    goal: float = GOAL,
) -> tuple[Policy, float]:
    """Find the policy that keeps the goal and differs from always-K in the fewest classes.

    Args:
        defended: the network.
        held_out: clean images that it was not trained on.
        full: their verdicts over all members.
        members: K.
        work: what members cost.
        rate: false-positive rate.
        seed: of the draws, as for ``full``.
        goal: plain inferences that a clean frame may cost in the mean, above 1.

    Returns:
        The policy, and the accuracy with it on the held-out images.

    Raises:
        ModelError: see ``starts``.
        InputError: too few images, see ``calibrate.require_images``.
    """
    found = []
    for start in starts(members, work, rate=rate, goal=goal):
        first = verdicts(defended, held_out, members=start, thresholds=None, seed=seed)
        allowed = allowance(start, members, work, goal)
        policy = limited(first, full, start=start, allowed=allowed, rate=rate)
        labels = [seen.verdict.label for seen in looks(first, full, policy, members)]
        apart = sum(label != v.label for label, v in zip(labels, full, strict=True))
        hits = sum(label == i.label for label, i in zip(labels, held_out.items, strict=True))
        found.append((apart, start, policy, hits / len(labels)))
    return min(found, key=lambda one: one[:2])[2:]


def possible(
    defended: Defended,
    held_out: Dataset,
    full: Sequence[Verdict],
    *,
    members: int,
    work: Work,
    rate: float,
    seed: int,
    least: float = 0.0,
) -> Found:
    """What ``choose`` finds; a policy that leaves less than the ``least`` accuracy is doubted."""
    if not rate or members <= FEWEST:
        return Found(None, None, [])
    try:
        policy, accuracy = choose(
            defended,
            held_out,
            full,
            members=members,
            work=work,
            rate=rate,
            seed=seed,
        )
    except ModelError as error:
        return Found(None, None, [f"no adaptive policy: {error}"])
    if accuracy >= least:
        return Found(policy, accuracy, [])
    doubt = (
        f"the adaptive policy alone leaves {accuracy:.1%} of held-out clean images right, which is"
        f" less than the {least:.1%} of the clean-accuracy budget; all {members} members keep it:"
        " set model.policy to false on the device, or erode later layers"
    )
    return Found(policy, accuracy, [doubt])


def limited(
    first: Sequence[Verdict],
    full: Sequence[Verdict],
    *,
    start: int,
    allowed: float,
    rate: float,
) -> Policy:
    """Set the limits of a policy.

    Args:
        first: held-out clean images over ``start`` members.
        full: the same over all members.
        start: how many begin.
        allowed: see ``allowance``.
        rate: false-positive rate.
    """
    aim = _SPENT * allowed
    rise = highest_clean_trend(allowed, 1 / MEMORY, FALSE_ALARM)
    return Policy(
        start=start,
        thresholds=calibrate(first, rate),
        usual=_usual(first, aim),
        usual_all=_usual(full, aim),
        trend=Trend(1 / MEMORY, rise, (allowed + rise) / 2),
    )


def _usual(clean: Sequence[Verdict], rate: float) -> Usual:
    found = [(v.feature_variance, 1 - v.confidence) for v in clean]
    return Usual(*joint_limits(np.array(found, dtype=np.float64), rate))


def highest_clean_trend(unusual: float, weight: float, chance: float) -> float:
    """What the weighted share of unusual frames exceeds with at most a chance, at any one frame.

    Chernoff's bound on the stationary mean of independent frames, the best of a grid of exponents.

    Args:
        unusual: share of clean frames that are unusual, in (0, 1).
        weight: of the newest frame, in (0, 1).
        chance: in (0, 1).
    """
    exponents = np.geomspace(0.1, 100, 400)[:, None] / weight
    # beyond these frames e^(exponent * w) - 1 is below 1e-8
    weights = weight * (1 - weight) ** np.arange(int(log(1e-11) / log(1 - weight)))
    grown = np.log1p(unusual * np.expm1(exponents * weights)).sum(axis=1)
    return float(min(1.0, ((grown - log(chance)) / exponents[:, 0]).min()))
