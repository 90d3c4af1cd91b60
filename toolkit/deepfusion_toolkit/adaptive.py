"""The adaptive policy: chosen on held-out clean images for a mean cost, measured against always-K.

Costs are multiply-adds in plain inferences (``surgery.members_cost``). A frame that escalates pays
for both runs: the few members that began, and all K.
"""

from collections.abc import Iterator, Sequence
from math import log

import msgspec
import numpy as np

from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import Verdict
from deepfusion_edge.policy import Level, Look, Policy, Trend, Usual, follow, look
from deepfusion_toolkit.calibrate import calibrate, joint_limits, scores
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.defence import verdicts
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.statistics import Share, share
from deepfusion_toolkit.surgery import ErodedModel, members_cost

START = 2
"""The fewest members that have a score; every further one would cost each clean frame."""
GOAL = 1.3
"""Plain inferences that a clean frame may cost in the mean."""
MEMORY = 32
"""Frames that the trend remembers."""
FALSE_ALARM = 1e-6
"""Chance, at any one frame of a clean stream, that the trend is up."""
_SPENT = 0.5
"""Part of the allowance that is aimed at; streams differ from the calibration images."""


class Judged(msgspec.Struct, frozen=True):
    """One way to judge a set.

    Attributes:
        cost: mean, in plain inferences.
        accuracy: share of images whose fused class is the labelled one, whatever the verdict.
        flagged: share of images suspect or rejected.
        states: how many images of each verdict.
    """

    cost: float
    accuracy: Share
    flagged: Share
    states: dict[str, int]


class Adaptive(msgspec.Struct, frozen=True):
    """A policy beside always-K, on the same images and draws.

    Attributes:
        policy: each image on its own: the trend, which only ever adds members, is left out.
        always: all K members for every image.
        escalated: images that all members judged after the first few.
        agreed: images with the same class and the same flag either way.
        stream: the policy with its trend, the images as one stream in their order.
        raised: images of that stream for which the trend had raised K.
    """

    policy: Judged
    always: Judged
    escalated: Share
    agreed: Share
    stream: Judged
    raised: Share


def allowance(members: int, prefix_share: float, *, goal: float, start: int = START) -> float:
    """Share of frames that may escalate to ``members`` if the mean cost is to be ``goal``."""
    return (goal - members_cost(start, prefix_share)) / members_cost(members, prefix_share)


def least_prefix_share(members: int, *, rate: float, goal: float = GOAL) -> float:
    """The least share of common multiply-adds at which a policy can keep the goal: see ``choose``.

    Args:
        members: K.
        rate: false-positive rate.
        goal: plain inferences a clean frame, above 1.
    """
    least = rate / _SPENT
    own = (goal - 1 - least) / (START - 1 + least * (members - 1))
    return max(0.0, 1 - own)


def choose(
    first: Sequence[Verdict],
    full: Sequence[Verdict],
    *,
    prefix_share: float,
    rate: float,
    goal: float = GOAL,
) -> Policy:
    """Set a policy's limits so that clean frames cost ``goal`` plain inferences at most.

    Half of the frames that may escalate are aimed at. They must be as many as may be flagged, for a
    frame that is accepted at once is never flagged.

    Args:
        first: held-out clean images, judged over the members that begin.
        full: the same images over all K members.
        prefix_share: the plan's.
        rate: false-positive rate, of the first members' own limits.
        goal: in plain inferences, above 1.

    Raises:
        ModelError: the first members alone, or with those that may be flagged, cost too much.
        InputError: too few images, see ``calibrate.require_images``.
    """
    start, members = first[0].members, full[0].members
    allowed = allowance(members, prefix_share, goal=goal, start=start)
    aim = _SPENT * allowed
    if aim < rate:
        least = least_prefix_share(members, rate=rate, goal=goal)
        raise ModelError(
            f"no policy over {members} members costs {goal:g} plain inferences a clean frame:"
            f" members share {prefix_share:.0%} of the work, {least:.0%} are needed",
            "erode later layers, or allow a higher cost",
        )
    rise = highest_clean_trend(allowed, 1 / MEMORY, FALSE_ALARM)
    return Policy(
        start=start,
        thresholds=calibrate(first, rate),
        usual=Usual(*joint_limits(scores(first), aim)),
        usual_all=Usual(*joint_limits(scores(full), aim)),
        trend=Trend(1 / MEMORY, rise, (allowed + rise) / 2),
    )


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


def measure(model: ErodedModel, plan: Plan, dataset: Dataset, *, seed: int) -> Adaptive:
    """Judge a data set, clean or attacked, by a plan's policy and by all its members.

    Raises:
        ModelError: the plan has no policy.
    """
    if plan.policy is None:
        raise ModelError("the plan has no policy", "make one with deepfusion harden")
    first = verdicts(
        model,
        dataset,
        members=plan.policy.start,
        thresholds=plan.policy.thresholds,
        seed=seed,
    )
    full = verdicts(model, dataset, members=plan.members, thresholds=plan.thresholds, seed=seed)
    labels = [item.label for item in dataset.items]
    return compare(first, full, labels, policy=plan.policy, prefix_share=plan.prefix_share)


def compare(
    first: Sequence[Verdict],
    full: Sequence[Verdict],
    labels: Sequence[int],
    *,
    policy: Policy,
    prefix_share: float,
) -> Adaptive:
    """Apply a policy to images judged both ways.

    Args:
        first: over ``policy.start`` members, by the policy's thresholds.
        full: over all K members of the same draws, by the plan's thresholds.
        labels: true classes.
        policy: to be measured.
        prefix_share: the plan's.
    """
    alone = list(_looks(first, full, policy, trend=False))
    stream = list(_looks(first, full, policy, trend=True))
    always = [Look(v, unusual=False, runs=(v.members,)) for v in full]
    same = [
        (a.verdict.label, a.verdict.state == "accept") == (b.label, b.state == "accept")
        for a, b in zip(alone, full, strict=True)
    ]
    return Adaptive(
        policy=_judged(alone, labels, prefix_share),
        always=_judged(always, labels, prefix_share),
        escalated=_part([len(seen.runs) > 1 for seen in alone]),
        agreed=_part(same),
        stream=_judged(stream, labels, prefix_share),
        raised=_part([seen.runs[0] != policy.start for seen in stream]),
    )


def _looks(
    first: Sequence[Verdict], full: Sequence[Verdict], policy: Policy, *, trend: bool
) -> Iterator[Look]:
    level = Level()
    for few, everyone in zip(first, full, strict=True):
        judged = {few.members: few, everyone.members: everyone}.__getitem__
        seen = look(judged, policy, members=everyone.members, raised=level.raised)
        if trend:
            level = follow(policy.trend, level, unusual=seen.unusual)
        yield seen


def _judged(seen: Sequence[Look], labels: Sequence[int], prefix_share: float) -> Judged:
    states = [look.verdict.state for look in seen]
    costs = [sum(members_cost(run, prefix_share) for run in look.runs) for look in seen]
    return Judged(
        cost=float(np.mean(costs)),
        accuracy=_part([s.verdict.label == label for s, label in zip(seen, labels, strict=True)]),
        flagged=_part([state != "accept" for state in states]),
        states={state: states.count(state) for state in ("accept", "suspect", "reject")},
    )


def _part(flags: Sequence[bool]) -> Share:
    return share(sum(flags), len(flags))
