"""Events as versioned JSON (schema 1): what subscribers read. Pure.

``schema/*.json`` beside this file describes them to others; a test holds the two together.

A decision holds all it takes to replay it: the bundle's digest, source and frame; with the bundle's
sites and bases, ``erosion.sample(sites, seed=seed, stream=stream, members=members // bases)`` gives
the factors used.
"""

import datetime as dt
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from deepfusion_edge.console import one_line
from deepfusion_edge.fusion import State as VerdictState
from deepfusion_edge.fusion import Verdict
from deepfusion_edge.report.device import Device

MAX_REASON = 500
Count = Annotated[int, Meta(ge=0)]
Time = Annotated[
    str, Meta(extra_json_schema={"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"})
]
Digest = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9a-f]{64}$"})]
AlertKind = Literal[
    "suspect",
    "reject",
    "unreadable",
    "model",
    "bundle",
    "outbox",
    "trend",
    "runtime",
    "source",
    "watchdog",
    "commands",
]
Connection = Literal["connecting", "connected", "lost", "reconnecting", "ended"]


class Subject(msgspec.Struct, frozen=True):
    """Which frame an event is about.

    Attributes:
        source: name of the source.
        frame: what the source calls the frame.
        sequence: counts the frames of that source in that run, from 0.
        captured_s: when the agent got the frame, seconds since 1970.
    """

    source: str
    frame: str
    sequence: int
    captured_s: float


class Draw(msgspec.Struct, frozen=True):
    """Where the factors came from.

    Attributes:
        seed, stream: both in [0, 2**53), so that JSON readers keep every digit.
    """

    seed: int
    stream: int


class BundleRef(msgspec.Struct, frozen=True):
    """The installed bundle: name of its line, SHA-256 (hex), sequence number."""

    id: str
    digest: Digest
    sequence: Count


class Decision(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """Topic ``<base>/<agent>/decision/<source>``.

    Attributes:
        id: unique over agents and restarts; a delivery repeated by the broker has the same one.
        time: when the frame was captured, RFC 3339 in UTC.
        bundle, bundle_sequence: SHA-256 (hex) and sequence number of the bundle.
        label, class_name: index and name of the fused class.
        confidence: its fused probability.
        state: ``accept``, ``suspect`` or ``reject``.
        disagreement: in nats.
        members: how many gave this verdict, those of all bases together; a policy may run fewer
            than the bundle has.
        latency_ms: from the frame's bytes to the verdict, without waiting for its turn.
    """

    schema: Literal[1] = 1
    id: str
    agent: str
    source: str
    frame: str
    sequence: Count
    time: Time
    bundle: Digest
    bundle_sequence: Count
    label: Count
    class_name: str
    confidence: float
    state: VerdictState
    feature_variance: float
    disagreement: float
    members: Annotated[int, Meta(ge=1)]
    seed: Count
    stream: Count
    latency_ms: float


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Topic ``<base>/<agent>/alert``.

    Attributes:
        decision: id of the decision it is about, None if there is none.
        source, frame, sequence: None when the alert is not about a frame.
        suppressed: how many further frames of this source failed in the same way since the last
            such alert; left out if none did. Reason and frame are those of the last one.
        since: when the first of them failed; left out like ``suppressed``.
    """

    schema: Literal[1] = 1
    id: str
    agent: str
    time: Time
    kind: AlertKind
    reason: str
    decision: str | None = None
    source: str | None = None
    frame: str | None = None
    sequence: Count | None = None
    suppressed: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    since: Time | UnsetType = UNSET


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """One source, within the state; frames are counted since the agent started.

    Attributes:
        state: ``reconnecting`` follows ``lost`` when the next try is under way.
        reason: why it is not connected; for people, without secrets.
        taken: given to the judge.
        dropped: by the back-pressure rule, or because no room was left.
        late: dropped because they were older than ``late_s`` when their turn came.
        refused: too large, retained, or no image by their first bytes.
        reconnects: connections after the first.
    """

    state: Connection
    reason: str = ""
    taken: Count = 0
    dropped: Count = 0
    late: Count = 0
    refused: Count = 0
    reconnects: Count = 0


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """Topic ``<base>/<agent>/state``, retained.

    Attributes:
        reason: why, for people.
        time: None in the Last Will, which the broker sends at a time nobody knew before.
        provider: the execution provider that really runs.
        counters: of the outbox.
        sources: by name.
        device: heat, clocks, power mode and memory, as far as the device tells.
    """

    schema: Literal[1] = 1
    agent: str
    state: Literal["online", "offline"]
    reason: str
    time: Time | None = None
    bundle: BundleRef | None = None
    provider: str | None = None
    counters: dict[str, int | float] | None = None
    sources: dict[str, SourceState] | None = None
    device: Device | None = None


def decision(
    event_id: str,
    *,
    agent: str,
    subject: Subject,
    bundle: BundleRef,
    classes: tuple[str, ...],
    verdict: Verdict,
    draw: Draw,
    latency_ms: float,
) -> Decision:
    """Put a verdict into words."""
    return Decision(
        id=event_id,
        agent=agent,
        source=subject.source,
        frame=subject.frame,
        sequence=subject.sequence,
        time=rfc3339(subject.captured_s),
        bundle=bundle.digest,
        bundle_sequence=bundle.sequence,
        label=verdict.label,
        class_name=classes[verdict.label],
        confidence=verdict.confidence,
        state=verdict.state,
        feature_variance=verdict.feature_variance,
        disagreement=verdict.disagreement,
        members=verdict.members,
        seed=draw.seed,
        stream=draw.stream,
        latency_ms=round(latency_ms, 3),
    )


def alert(
    event_id: str,
    *,
    agent: str,
    kind: AlertKind,
    reason: str,
    time_s: float,
    subject: Subject | None = None,
    decision_id: str | None = None,
    suppressed: int | UnsetType = UNSET,
    since: str | UnsetType = UNSET,
) -> Alert:
    """Put a problem into words, on one line of at most 500 characters."""
    return Alert(
        id=event_id,
        agent=agent,
        time=rfc3339(time_s),
        kind=kind,
        reason=one_line(reason)[:MAX_REASON],
        decision=decision_id,
        source=subject.source if subject else None,
        frame=subject.frame if subject else None,
        sequence=subject.sequence if subject else None,
        suppressed=suppressed,
        since=since,
    )


def encode(event: Decision | Alert | AgentState) -> bytes:
    """Spell an event as JSON, UTF-8."""
    return msgspec.json.encode(event)


def rfc3339(time_s: float) -> str:
    """Seconds since 1970 as UTC with milliseconds: ``2026-01-31T12:00:00.250Z``."""
    when = dt.datetime.fromtimestamp(time_s, tz=dt.timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
