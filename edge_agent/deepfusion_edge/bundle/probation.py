"""Is a bundle that was swapped in from afar fit to stay? Pure: what was seen is an argument.

It fails at once if the graph fails on a frame; from 50 frames on, or at the end, also if it rejects
a much larger share than the bundle before, or is much slower. Dying counts too: ``bundle.store``
counts the agent's starts meanwhile.
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from deepfusion_edge.bundle.manifest import Utc
from deepfusion_edge.config_commands import Probation

JUDGED_FROM = 50
FEWEST = 10

BundleName = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the bundle before did lately; None where too few frames came to tell.

    Attributes:
        rejected: share of frames, 0 to 1.
        latency_ms: median from bytes to verdict.
    """

    rejected: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    latency_ms: Annotated[float, Meta(ge=0.0)] | None = None


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A probation, as it lies on the disk.

    Attributes:
        candidate, fallback: names of the folders below ``bundles``.
        begun: UTC.
        starts: of the agent, without those that ended in order; the one that installed it is one,
            the one that runs too. All but one of them died.
    """

    candidate: BundleName
    fallback: BundleName
    begun: Utc
    baseline: Baseline = Baseline()
    starts: Annotated[int, Meta(ge=0)] = 1


class Seen(NamedTuple):
    """What the candidate did since the agent began to judge by it.

    Attributes:
        frames: judged, or failed on; unreadable ones are no fault of the bundle.
        failed: frames on which the graph failed.
        rejected: share of frames rejected by verdict, 0 to 1.
        latency_ms: median; 0 without frames.
    """

    frames: int
    failed: int
    rejected: float
    latency_ms: float
    elapsed_s: float


class Decision(NamedTuple):
    """What becomes of the candidate, and why."""

    what: Literal["wait", "keep", "drop"]
    why: str


def baseline(seen: Seen) -> Baseline:
    """Measure the bundle that is to be replaced."""
    if seen.frames < FEWEST:
        return Baseline()
    return Baseline(rejected=seen.rejected, latency_ms=seen.latency_ms)


def decide(rules: Probation, before: Baseline, seen: Seen) -> Decision:
    """Apply the rules of the module's text.

    Without a baseline the bundle before counts as one that rejects nothing, and latency is not
    compared: to return to what served is safe, to keep what nobody could judge is not.
    """
    if seen.failed:
        return Decision("drop", f"the graph failed on {seen.failed} of {seen.frames} frames")
    over = seen.frames >= rules.frames or (
        seen.frames >= FEWEST and seen.elapsed_s >= rules.duration_s
    )
    if over or seen.frames >= JUDGED_FROM:
        was = before.rejected or 0.0
        if seen.rejected > was + rules.reject_margin:
            return Decision(
                "drop",
                f"rejects {seen.rejected:.1%} of {seen.frames} frames, the bundle before {was:.1%}:"
                f" more than {rules.reject_margin:.1%} above",
            )
        slow = before.latency_ms and seen.latency_ms > rules.latency_factor * before.latency_ms
        if slow:
            return Decision(
                "drop",
                f"median latency {seen.latency_ms:.3g} ms, the bundle before"
                f" {before.latency_ms:.3g} ms: more than {rules.latency_factor:g} times",
            )
    if over:
        return Decision("keep", f"{seen.frames} frames in {seen.elapsed_s:.0f} s without a fault")
    return Decision("wait", f"{seen.frames} of {rules.frames} frames")
