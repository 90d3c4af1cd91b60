"""Lives through the days of the calendar, and keeps what was seen."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from benchmarks.agent.faults import token_of
from benchmarks.agent.rig import stop
from benchmarks.agent.subscriber import Subscriber
from benchmarks.prove.bundles import CREATED, Maker
from benchmarks.prove.faults.claim import BrokenError, need
from benchmarks.prove.faults.publishing import until
from benchmarks.prove.soak.calendar import BAD, Day
from benchmarks.prove.soak.plant import AGENT, Plant, Sample
from deepfusion_edge.bundle.envelope import generate
from deepfusion_edge.bundle.manifest import GOLDEN, Manifest
from deepfusion_edge.bundle.store import load_current
from deepfusion_edge.fusion import Threshold, Thresholds
from deepfusion_edge.line import utc_now
from deepfusion_edge.outbox import read_counters

_SAMPLES, _OUTAGE = 4, 0.15
"""Looks a day; share of a day that the broker is away."""
_PATIENCE_S = 120.0
_NO_EVENTS = ("/state", "/command")
"""Ends of topics on which the state is said, and commands come."""


@dataclass
class Year:
    """What was seen.

    Attributes:
        samples: in order.
        bodies: every delivery of an event, in order of arrival.
        stored: ids that the outbox gave.
        given: frames that there were.
        updates: sequences that were kept.
        refused: what was wrong, and how the agent ended it, of each bad bundle.
        trouble: what should not have happened, a line each.
    """

    samples: list[Sample] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    given: int = 0
    updates: list[int] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)


def live(
    plant: Plant,
    maker: Maker,
    days: Sequence[Day],
    budget_s: float,
    advance: Callable[[int], None],
) -> Year:
    """Live through the days, then let the agent drain.

    Args:
        plant: entered.
        maker: of its bundles.
        days: of the calendar.
        budget_s: for all of them; each takes its share of what is left, or as long as it needs.
        advance: told of each day.

    Raises:
        BrokenError: the agent gives no verdicts, or does not end.
    """
    seen, heard = Year(), threading.Lock()

    def hear(topic: str, body: bytes) -> None:
        if not topic.endswith(_NO_EVENTS):
            with heard:
                seen.bodies.append(body)

    with Subscriber(plant.broker.port, f"deepfusion/{AGENT}/#", hear):
        until(lambda: bool(seen.bodies), "no word of the agent", _PATIENCE_S)
        plant.frames.start()
        ends = time.monotonic() + budget_s
        life = _Life(plant, maker, seen)
        for day in days:
            length_s = (ends - time.monotonic()) / (len(days) - day.number)
            life.day(day, max(0.5, length_s))
            advance(1)
        plant.frames.stop()
        seen.given = plant.frames.given
        with contextlib.suppress(BrokenError):  # the claim says what is missing
            until(lambda: _decisions(seen) >= seen.given, "decisions are missing", _PATIENCE_S)
        assert plant.agent is not None  # noqa: S101 - entered
        stop(plant.agent, _PATIENCE_S)
        counters = read_counters(plant.state, now_s=time.time())
        need(counters is not None, "the outbox is gone")
        assert counters is not None  # noqa: S101 - as above
        name = f"{AGENT}-{token_of(plant.state)}"
        seen.stored = {f"{name}-{number}" for number in range(1, counters.received + 1)}
        if counters.kept or counters.dropped or counters.expired:
            seen.trouble.append(f"the outbox ends with {counters}")
        time.sleep(1)
        with contextlib.suppress(BrokenError):  # the claim says what is missing
            until(lambda: seen.stored <= _ids(seen), "events are missing", _PATIENCE_S / 4)
    return seen


class _Life:
    """One day after the other."""

    def __init__(self, plant: Plant, maker: Maker, seen: Year) -> None:
        self._plant, self._maker, self._seen = plant, maker, seen
        self._sequence = self._command = 1

    def day(self, day: Day, length_s: float) -> None:
        begun = time.monotonic()
        self._plant.broker.stop()
        time.sleep(_OUTAGE * length_s)
        self._look(day, _OUTAGE)
        self._plant.broker.start()
        if day.bad is not None:
            self._try_bad(day.bad)
        if day.update:
            self._update()
        for look in range(1, _SAMPLES):
            due = begun + length_s * look / (_SAMPLES - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            self._look(day, look / _SAMPLES)

    def _look(self, day: Day, part: float) -> None:
        self._seen.samples.append(self._plant.sample(day.number + part, len(self._seen.bodies)))

    def _update(self) -> None:
        self._sequence += 1
        bundle = self._maker.make(self._sequence)
        end = self._order(bundle)
        bundle.unlink()
        if end.state == "done" and self._serves() == self._sequence:
            self._seen.updates.append(self._sequence)
        else:
            self._seen.trouble.append(f"update {self._sequence}: {end.state}, {end.reason}")

    def _try_bad(self, wrong: str) -> None:
        before = self._serves()
        if wrong != BAD[2]:  # the old one has a number already
            self._sequence += 1
        bundle = bad_bundle(self._maker, wrong, self._sequence)
        end = self._order(bundle)
        bundle.unlink()
        self._seen.refused.append((wrong, end.reason))
        if end.state != "failed" or self._serves() != before:
            self._seen.trouble.append(f"a bundle that {wrong}: {end.state}, {end.reason}")

    def _order(self, bundle: Path) -> "CommandEnd":
        self._command += 1
        status = self._plant.order(bundle, self._command)
        return CommandEnd(status.state, status.reason or "")

    def _serves(self) -> int:
        return load_current(self._plant.state, now=utc_now()).manifest.sequence


@dataclass(frozen=True)
class CommandEnd:
    """How a command ended."""

    state: str
    reason: str


def bad_bundle(maker: Maker, wrong: str, sequence: int) -> Path:
    """Make a bundle that must not stay in service; ``wrong`` is one of ``BAD``."""
    name = f"bad-{sequence}"
    if wrong == BAD[0]:
        path = maker.make(sequence, name=name)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        return path
    if wrong == BAD[1]:
        return maker.make(sequence, name=name, keys=[generate()])
    if wrong == BAD[3]:
        gone = "2026-01-02T00:00:00Z"
        return maker.make(sequence, name=name, change=lambda m: replace(m, expires=gone))
    if wrong == BAD[4]:
        golden = json.loads(maker.part(GOLDEN))
        golden["fused"] = golden["fused"][::-1]
        other = json.dumps(golden, sort_keys=True, separators=(",", ":")).encode()
        return maker.make(sequence, name=name, parts={GOLDEN: other})
    return maker.make(sequence, name=name, change=_strict if wrong == BAD[5] else lambda m: m)


def _strict(manifest: Manifest) -> Manifest:
    at_once, never = Threshold(0.0, 0.0), Threshold(None, None)
    return replace(manifest, thresholds=Thresholds(at_once, never, 0.01, 1000), created=CREATED)


def _ids(seen: Year) -> set[str]:
    return {str(json.loads(body)["id"]) for body in list(seen.bodies)}


def _decisions(seen: Year) -> int:
    """Those that came twice count once: else the last frames would not be waited for."""
    bodies = [body for body in list(seen.bodies) if b'"seed"' in body]
    return len({json.loads(body)["id"] for body in bodies})
