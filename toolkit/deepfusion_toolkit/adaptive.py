"""An adaptive policy measured against always-K, on the same images and draws.

Costs are multiply-adds in plain inferences (``surgery.Work``). A frame that escalates pays
for both runs: the few members that began, and all K.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import Verdict
from deepfusion_edge.policy import Level, Look, Policy, follow, look
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.defence import Defended, verdicts
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.statistics import Share, share
from deepfusion_toolkit.surgery import Work


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


def measure(defended: Defended, plan: Plan, dataset: Dataset, *, seed: int) -> Adaptive:
    """Judge a data set, clean or attacked, by a plan's policy and by all its members.

    Raises:
        ModelError: the plan has no policy.
    """
    if plan.policy is None:
        raise ModelError("the plan has no policy", "make one with deepfusion harden")
    first = verdicts(
        defended,
        dataset,
        members=plan.policy.start,
        thresholds=plan.policy.thresholds,
        seed=seed,
    )
    full = verdicts(defended, dataset, members=plan.members, thresholds=plan.thresholds, seed=seed)
    labels = [item.label for item in dataset.items]
    return compare(
        first,
        full,
        labels,
        policy=plan.policy,
        members=plan.members,
        work=plan.work,
    )


def compare(
    first: Sequence[Verdict],
    full: Sequence[Verdict],
    labels: Sequence[int],
    *,
    policy: Policy,
    members: int,
    work: Work,
) -> Adaptive:
    """Apply a policy to images judged both ways.

    Args:
        first: over ``policy.start`` members, by the policy's thresholds.
        full: over all K members of the same draws, by the plan's thresholds.
        labels: true classes.
        policy: to be measured.
        members: K.
        work: what members cost.
    """
    alone = list(looks(first, full, policy, members))
    stream = list(looks(first, full, policy, members, trend=True))
    always = [Look(v, unusual=False, runs=(members,)) for v in full]
    same = [
        (a.verdict.label, a.verdict.state == "accept") == (b.label, b.state == "accept")
        for a, b in zip(alone, full, strict=True)
    ]
    return Adaptive(
        policy=_judged(alone, labels, work),
        always=_judged(always, labels, work),
        escalated=_part([len(seen.runs) > 1 for seen in alone]),
        agreed=_part(same),
        stream=_judged(stream, labels, work),
        raised=_part([seen.runs[0] != policy.start for seen in stream]),
    )


def looks(
    first: Sequence[Verdict],
    full: Sequence[Verdict],
    policy: Policy,
    members: int,
    *,
    trend: bool = False,
) -> Iterator[Look]:
    """What a policy makes of frames judged both ways, each alone or as a stream with a trend."""
    level = Level()
    for few, everyone in zip(first, full, strict=True):
        judged = {policy.start: few, members: everyone}.__getitem__
        seen = look(judged, policy, members=members, raised=level.raised)
        if trend:
            level = follow(policy.trend, level, unusual=seen.unusual)
        yield seen


def _judged(seen: Sequence[Look], labels: Sequence[int], work: Work) -> Judged:
    states = [look.verdict.state for look in seen]
    costs = [sum(work.cost(run) for run in look.runs) for look in seen]
    return Judged(
        cost=float(np.mean(costs)),
        accuracy=_part([s.verdict.label == label for s, label in zip(seen, labels, strict=True)]),
        flagged=_part([state != "accept" for state in states]),
        states={state: states.count(state) for state in ("accept", "suspect", "reject")},
    )


def _part(flags: Sequence[bool]) -> Share:
    return share(sum(flags), len(flags))
