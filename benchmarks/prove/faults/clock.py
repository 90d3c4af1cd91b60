"""Clocks that start in 1970, or are set while the agent runs."""

import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from unittest.mock import patch

from benchmarks.agent.mosquitto import Mosquitto
from benchmarks.agent.subscriber import Subscriber
from benchmarks.prove.bundles import CREATED, EXPIRES, Maker
from benchmarks.prove.faults.claim import Fault, need
from benchmarks.prove.faults.publishing import publishing, until
from benchmarks.prove.faults.storage import NOW
from deepfusion_edge.bundle import installed, store, verify
from deepfusion_edge.bundle.envelope import key_id
from deepfusion_edge.bundle.manifest import Manifest
from deepfusion_edge.commands import gate
from deepfusion_edge.commands.message import Command, Restart, sign
from deepfusion_edge.errors import TrustError
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report import publisher

_EPOCH, _LATER = "1970-01-01T00:00:00Z", "2099-06-01T00:00:00Z"
_TTL_S = 60.0


def _starts_in_1970(maker: Maker, work: Path) -> str:
    store.install(maker.make(1), work / "state", [maker.public], now=NOW, probe=False)
    sequence = store.load_current(work / "state", now=_EPOCH).manifest.sequence
    return f"bundle {sequence}, created {CREATED}, loads on {_EPOCH}"


def _installs_in_1970(maker: Maker, work: Path) -> str:
    return _refused(
        lambda: store.install(
            maker.make(1), work / "state", [maker.public], now=_EPOCH, probe=False
        )
    )


def _jumps_past_the_expiry(maker: Maker, work: Path) -> str:
    store.install(maker.make(1), work / "state", [maker.public], now=NOW, probe=False)
    told = _refused(lambda: store.load_current(work / "state", now=_LATER))
    store.load_current(work / "state", now=NOW)
    return f"{told}; with the clock set right it loads again (expires {EXPIRES})"


def _set_back(maker: Maker, _work: Path) -> str:
    """A command that had expired is sent again after the clock was set back to its time."""
    issued, expires = "2026-06-01T00:00:00Z", "2026-06-01T00:10:00Z"
    command = Command(
        schema=1,
        id="c-1",
        agent="a/b",
        sequence=1,
        issued=issued,
        expires=expires,
        action=Restart(),
    )
    public = maker.private.public_key()
    answer = gate.admit(
        sign(command, maker.private),
        retained=False,
        agent="a/b",
        holders={key_id(public): gate.Holder(public, frozenset({"restart"}))},
        past=gate.Past(vouched="2026-06-02T00:00:00Z"),
        now="2026-06-01T00:05:00Z",
    )
    need(isinstance(answer, gate.Refusal), "an expired command was taken")
    return f"refused: {getattr(answer, 'code', answer)}"


def _set_while_events_wait(_maker: Maker, work: Path) -> str:
    """An event of 1970 waits for a broker that is reached once the clock was set."""
    heard: list[bytes] = []
    for number, jump_s in enumerate((1.7e9, -1.0e6)):
        ahead = [0.0]
        state = work / f"state-{number}"
        state.mkdir()
        broker = Mosquitto(work / f"broker-{number}")
        with Outbox(state, max_events=100, max_bytes=2**20, ttl_s=_TTL_S) as box:
            broker.start()
            try:
                with (
                    Subscriber(broker.port, "deepfusion/#", lambda _, body: heard.append(body)),
                    publishing(
                        broker.port,
                        box,
                        now=lambda ahead=ahead: time.monotonic() + ahead[0],  # type: ignore[misc]
                        before=lambda box=box, ahead=ahead, by=jump_s: _early(box, ahead, by),  # type: ignore[misc]
                    ),
                ):
                    until(lambda box=box: box.kept == 0, "the event waits")  # type: ignore[misc]
            finally:
                broker.stop()
            need(box.counters(now_s=0).expired == 0, "the event was dropped as expired")
    until(lambda: heard.count(b"early") == 2, "it did not arrive")  # noqa: PLR2004 - two jumps
    return "set by +54 years and by -12 days: each event arrived"


def _early(box: Outbox, ahead: list[float], jump_s: float) -> None:
    box.put("decision/cam", lambda _: b"early", now_s=time.monotonic())
    ahead[0] = jump_s


def _refused(act: object) -> str:
    assert callable(act)  # noqa: S101 - for the type checker
    try:
        act()
    except TrustError as error:
        return error.what
    need(holds=False, otherwise="it was not refused")
    return ""


def _as_for_installing(manifest: Manifest, now: str) -> None:
    verify.check_expiry(manifest, now)
    verify._check_created(manifest, now)  # noqa: SLF001 - the guard in question


def _never_expires() -> ExitStack:
    stack = ExitStack()
    for module in (installed, verify):
        stack.enter_context(patch.object(module, "check_expiry"))
    return stack


def _forgets_what_was_vouched() -> AbstractContextManager[object]:
    real = gate.admit

    def admit(*arguments: object, past: gate.Past, **options: object) -> object:
        return real(*arguments, past=past._replace(vouched=None), **options)  # type: ignore[arg-type]

    return patch.object(gate, "admit", admit)


FAULTS = (
    Fault(
        "Start in 1970",
        "the installed bundle loads",
        "the rule that 'created' holds for installing alone",
        _starts_in_1970,
        lambda: patch.object(installed, "check_expiry", _as_for_installing),
    ),
    Fault(
        "Installation in 1970",
        "refused: nobody could tell an expired bundle",
        "the rule 'created'",
        _installs_in_1970,
        lambda: patch.object(verify, "_check_created"),
    ),
    Fault(
        "Clock jumps past the expiry",
        "the bundle is refused, and taken once the clock is right",
        "the rule 'expiry'",
        _jumps_past_the_expiry,
        _never_expires,
    ),
    Fault(
        "Clock set back to the time of an expired command",
        "the command stays refused",
        "the time that was vouched for",
        _set_back,
        _forgets_what_was_vouched,
    ),
    Fault(
        "Clock set while events wait",
        "no event is too old for that",
        "the correction of their age",
        _set_while_events_wait,
        lambda: patch.object(publisher, "CLOCK_STEP_S", float("inf")),
    ),
)
