"""An agent to look at, made up: frames, verdicts, and what it would answer."""

import threading
from contextlib import contextmanager

import numpy as np
from msgspec.structs import replace

from deepfusion_edge.config import Http
from deepfusion_edge.fusion import Verdict
from deepfusion_edge.health.seeing import Living, Seeing
from deepfusion_edge.health.server import serve
from deepfusion_edge.observer import Judged, Timing
from deepfusion_edge.report import payload
from deepfusion_edge.report.device import Clock, Device, Zone
from deepfusion_edge.report.payload import AgentState, BundleRef, SourceState
from deepfusion_edge.source.base import Frame

NOW = 1_800_000_000.0
DEVICE = Device(
    zones=(Zone("cpu-thermal", 58.25, 99.0),),
    clocks=(Clock("cpu0", 1510.4, 1510.4, 0.5),),
    power_mode="15W",
    over_current=2,
    rss_bytes=200 * 2**20,
    available_bytes=3 * 2**30,
    total_bytes=8 * 2**30,
)
STATE = AgentState(
    agent="line-3",
    state="online",
    reason="running",
    bundle=BundleRef(id="pcb", digest="ab" * 32, sequence=7),
    provider="CPUExecutionProvider",
    counters={"received": 9, "sent": 5, "dropped": 1, "expired": 0, "kept": 3, "oldest_age_s": 4.5},
    sources={
        "cam": SourceState(state="connected", taken=9, dropped=2, late=1),
        "two": SourceState(state="ended"),
    },
    device=DEVICE,
)


class Made:
    """What :class:`Living` asks, to be changed at will."""

    def __init__(self, state=STATE):
        self.state = state
        self.silent_s = self.unfed_s = 0.0
        self.broker = None
        self.store_error = None
        self.stored = 0
        self.history = []

    def store(self):
        self.stored += 1
        if self.store_error is not None:
            raise self.store_error

    def source(self, **changes):
        sources = {**self.state.sources, "cam": SourceState(**changes)}
        self.state = replace(self.state, sources=sources)

    @property
    def living(self):
        return Living(
            describe=lambda: self.state,
            silent_s=lambda: self.silent_s,
            unfed_s=lambda: self.unfed_s,
            broker=lambda: self.broker,
            store=self.store,
            history=lambda: self.history,
        )


def judged(
    state="accept", *, name="a.png", source="cam", at=NOW, side=(48, 64), problem=None, **scores
):
    """One frame; state None: the graph failed; ``unreadable``: no pixels."""
    verdict = None
    if state in {"accept", "suspect", "reject"}:
        chosen = {"feature_variance": 0.02, "disagreement": 0.05, "members": 8, **scores}
        verdict = Verdict(label=1, confidence=0.9, state=state, **chosen)
    pixels = None if state == "unreadable" else np.full((*side, 3), 200, np.uint8)
    frame = Frame(source, name, b"", at, 0, 10**6)
    timing = Timing(prepare_ms=4.0, infer_ms=12.0, total_ms=17.0, age_ms=30.0)
    class_name = "bridge" if verdict else None
    return Judged(frame, pixels, verdict, class_name, problem, "e" if verdict else None, timing)


def tell(seeing, *frames):
    for frame in frames:
        for observer in seeing.observers:
            observer.judged(frame)


def alerted(kind, reason, *, at=NOW, **more):
    return payload.alert("line-3-ab-1", agent="line-3", kind=kind, reason=reason, time_s=at, **more)


def tell_alert(seeing, kind, reason, **more):
    for observer in seeing.observers:
        observer.alert(alerted(kind, reason, **more))


@contextmanager
def served(seeing, http=None):
    """Serve on a free port and give it."""
    finish, found, known = threading.Event(), [], threading.Event()

    def listening(port):
        found.append(port)
        known.set()

    thread = threading.Thread(
        target=serve,
        args=(http or Http(port=0), seeing, finish),
        kwargs={"listening": listening},
    )
    thread.start()
    try:
        assert known.wait(20)
        yield found[0]
    finally:
        finish.set()
        thread.join(20)
        assert not thread.is_alive()


def seeing_of(made, **changes):
    return Seeing(made.living, Http(port=0, **changes), stuck_s=15.0, now=lambda: NOW)
