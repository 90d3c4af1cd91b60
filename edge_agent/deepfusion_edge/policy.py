"""How many members a frame is worth: few at first, K where these are not sure. Pure.

A frame is *unusual* if its members disagree, in their features or in doubt of the class, as they do
on few clean frames. Few members judge first; what is usual is accepted, what they reject is
rejected, and all K members judge the rest. The share of unusual frames of a source, weighted
exponentially (Roberts, Technometrics 1959), is its *trend*: from ``rise`` on all K members run at
once, until it is back at ``fall``.

Scores over two members are distributed otherwise than over eight: each count has limits of its own.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from deepfusion_edge.fusion import Thresholds, Verdict

Score = Annotated[float, Meta(ge=0.0)]


class Usual(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Below which scores an accepted frame is usual: both must be.

    Attributes:
        feature_variance: see ``fusion``; what betrays an attack.
        doubt: 1 - confidence; where more members may choose another class. It stands for the
            disagreement too, which is at most the entropy of the members' mean.
    """

    feature_variance: Score
    doubt: Score

    def holds(self, verdict: Verdict) -> bool:
        """Whether a verdict is accept and both scores are usual."""
        return (
            verdict.state == "accept"
            and verdict.feature_variance < self.feature_variance
            and 1 - verdict.confidence < self.doubt
        )


class Trend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a source's share of unusual frames keeps K raised.

    Attributes:
        weight: of the newest frame in the mean; ``1 / weight`` frames are its memory.
        rise: share from which on K is raised.
        fall: share, below ``rise``, down to which it stays raised.
    """

    weight: Annotated[float, Meta(gt=0.0, lt=1.0)]
    rise: Annotated[float, Meta(gt=0.0, le=1.0)]
    fall: Annotated[float, Meta(ge=0.0, lt=1.0)]

    def __post_init__(self) -> None:
        if not self.fall < self.rise:
            raise ValueError(f"trend falls at {self.fall:g}, not below its rise at {self.rise:g}")


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An adaptive policy, calibrated on held-out clean images.

    Attributes:
        start: how many members judge first; fewer than K.
        thresholds: of the verdict over ``start`` members.
        usual: over ``start`` members: what is accepted at once.
        usual_all: over all K members, at the same rate: what the trend counts while K is raised.
        trend: when K is raised for all frames of a source.
    """

    start: Annotated[int, Meta(ge=2, le=63)]
    thresholds: Thresholds
    usual: Usual
    usual_all: Usual
    trend: Trend


class Look(NamedTuple):
    """What a frame cost and gave.

    Attributes:
        verdict: of the last run.
        unusual: what the trend counts.
        runs: members of each run of the graph, in order.
    """

    verdict: Verdict
    unusual: bool
    runs: tuple[int, ...]


class Level(NamedTuple):
    """Trend of a source: its share of unusual frames in [0, 1], and whether K is raised."""

    share: float = 0.0
    raised: bool = False


def look(
    judged: Callable[[int], Verdict], policy: Policy | None, *, members: int, raised: bool = False
) -> Look:
    """Judge one frame over as many members as it is worth.

    Args:
        judged: runs so many members, the first rows of one draw, and judges by the limits of that
            count.
        policy: None runs all members.
        members: K.
        raised: whether the trend of the frame's source has raised K.
    """
    if policy is None or raised:
        verdict = judged(members)
        return Look(verdict, policy is not None and not policy.usual_all.holds(verdict), (members,))
    first = judged(policy.start)
    usual = policy.usual.holds(first)
    if usual or first.state == "reject":
        return Look(first, not usual, (policy.start,))
    # All K rows run again: the graph gives no sums to which the others' features could be added.
    return Look(judged(members), True, (policy.start, members))


def follow(trend: Trend, level: Level, *, unusual: bool) -> Level:
    """Take one more frame into a source's trend."""
    share = level.share + trend.weight * (unusual - level.share)
    return Level(share, share > trend.fall if level.raised else share >= trend.rise)
