"""What Prometheus reads: counted as it happens, or asked for when it scrapes.

No label holds what a sender chooses (frame names, reasons): sources, verdicts, stages and kinds of
alert are few and known, so the number of series stays small for ever.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from deepfusion_edge import __version__
from deepfusion_edge.observer import Judged, Observer
from deepfusion_edge.report.device import Device
from deepfusion_edge.report.payload import AgentState, Alert

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
SCORES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 2)


class Now(NamedTuple):
    """What is asked for when somebody looks.

    Attributes:
        state: what the retained state would say at this moment.
        device: the sensors.
        broker: why there is no connection to the broker; None: there is one.
        ailments: what is wrong; empty if the agent is well.
    """

    state: AgentState
    device: Device
    broker: str | None
    ailments: tuple[str, ...]


def outcome(judged: Judged) -> str:
    """Name what became of a frame: the verdict's state, ``failed`` (graph) or ``unreadable``."""
    if judged.verdict is not None:
        return judged.verdict.state
    return "unreadable" if judged.pixels is None else "failed"


class Metrics(Observer):
    """All series of one agent."""

    def __init__(self, look: Callable[[], Now]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Asked(look))
        self._frames = Counter(
            "deepfusion_frames",
            "Frames by what became of them",
            ["source", "verdict"],
            registry=registry,
        )
        self._members = Counter(
            "deepfusion_members",
            "Members that judged, summed over frames",
            ["source"],
            registry=registry,
        )
        self._alerts = Counter("deepfusion_alerts", "Alerts", ["kind"], registry=registry)
        self._suppressed = Counter(
            "deepfusion_alerts_suppressed",
            "Failed frames that had no alert of their own",
            ["kind"],
            registry=registry,
        )
        self._latency = Histogram(
            "deepfusion_latency_seconds",
            "Time of a frame by stage; age counts from the capture",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._disagreement = Histogram(
            "deepfusion_disagreement_nats",
            "Score in softmax space",
            ["source"],
            buckets=SCORES,
            registry=registry,
        )
        self._variance = Histogram(
            "deepfusion_feature_variance",
            "Score in feature space",
            ["source"],
            buckets=SCORES,
            registry=registry,
        )
        self._last = Gauge(
            "deepfusion_last_frame_timestamp_seconds",
            "When the last frame was captured",
            ["source"],
            registry=registry,
        )

    def judged(self, judged: Judged) -> None:
        """Count a frame."""
        source, verdict, timing = judged.frame.source, judged.verdict, judged.timing
        self._frames.labels(source, outcome(judged)).inc()
        self._last.labels(source).set(judged.frame.captured_s)
        if verdict is None:
            return
        self._members.labels(source).inc(verdict.members)
        self._disagreement.labels(source).observe(verdict.disagreement)
        self._variance.labels(source).observe(verdict.feature_variance)
        for stage, ms in (
            ("prepare", timing.prepare_ms),
            ("infer", timing.infer_ms),
            ("total", timing.total_ms),
            ("age", timing.age_ms),
        ):
            self._latency.labels(stage).observe(max(0.0, ms / 1000))

    def alert(self, alert: Alert) -> None:
        """Count an alert, and what it stands for."""
        self._alerts.labels(alert.kind).inc()
        self._suppressed.labels(alert.kind).inc(alert.suppressed or 0)

    def exposition(self) -> bytes:
        """Write everything in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)


class _Asked(Collector):
    """Turns a :class:`Now` into series, at each scrape."""

    def __init__(self, look: Callable[[], Now]) -> None:
        self._look = look

    def describe(self) -> Iterable[Metric]:
        """Nothing: asking would look at an agent that may not run yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        now = self._look()
        yield from _agent(now)
        yield from _sources(now.state)
        yield from _outbox(now.state)
        yield from _device(now.device)


def _agent(now: Now) -> Iterable[Metric]:
    state = now.state
    yield _gauge("up", "1 if the agent is well; /healthz says why not", not now.ailments)
    yield _gauge("broker_connected", "1 while there is a connection", now.broker is None)
    about = _labelled(
        "agent_info",
        "Which agent this is",
        version=__version__,
        agent=state.agent,
        provider=state.provider or "",
    )
    yield about
    if state.bundle is not None:
        bundle = state.bundle
        yield _labelled(
            "bundle_info",
            "Which bundle judges",
            id=bundle.id,
            digest=bundle.digest,
            sequence=str(bundle.sequence),
        )
        yield _gauge("bundle_sequence", "Sequence number of the bundle", bundle.sequence)


def _sources(state: AgentState) -> Iterable[Metric]:
    up = GaugeMetricFamily("deepfusion_source_up", "1 if frames can come", labels=["source"])
    lost = CounterMetricFamily(
        "deepfusion_source_lost_frames", "Frames that were not judged", labels=["source", "why"]
    )
    again = CounterMetricFamily(
        "deepfusion_source_reconnects", "Connections after the first", labels=["source"]
    )
    for name, source in (state.sources or {}).items():
        up.add_metric([name], float(source.state in {"connected", "ended"}))
        again.add_metric([name], source.reconnects)
        for why in ("dropped", "late", "refused"):
            lost.add_metric([name, why], getattr(source, why))
    return up, lost, again


def _outbox(state: AgentState) -> Iterable[Metric]:
    counters = dict(state.counters or {})
    for name, text in (
        ("kept", "Events that wait for the broker"),
        ("oldest_age_s", "Age of the oldest one, in seconds"),
        ("disk_full", "1 while new events push out old ones because the disk is full"),
    ):
        if name in counters:
            plain = {"kept": "events", "oldest_age_s": "oldest_seconds"}.get(name, name)
            yield _gauge(f"outbox_{plain}", text, counters[name])
    for name in ("received", "sent", "dropped", "expired"):
        if name in counters:
            family = CounterMetricFamily(f"deepfusion_outbox_{name}", f"Events {name}")
            family.add_metric([], counters[name])
            yield family


def _device(device: Device) -> Iterable[Metric]:
    heat = GaugeMetricFamily("deepfusion_temperature_celsius", "Temperature", labels=["zone"])
    trip = GaugeMetricFamily(
        "deepfusion_temperature_trip_celsius", "From here on clocks fall", labels=["zone"]
    )
    for zone in device.zones:
        heat.add_metric([zone.name], zone.celsius)
        if zone.trip_celsius is not None:
            trip.add_metric([zone.name], zone.trip_celsius)
    clock = GaugeMetricFamily("deepfusion_clock_hertz", "Clock", labels=["clock"])
    most = GaugeMetricFamily("deepfusion_clock_max_hertz", "Its limit", labels=["clock"])
    busy = GaugeMetricFamily("deepfusion_clock_busy_ratio", "Share of time", labels=["clock"])
    for one in device.clocks:
        clock.add_metric([one.name], 1e6 * one.mhz)
        if one.max_mhz is not None:
            most.add_metric([one.name], 1e6 * one.max_mhz)
        if one.busy is not None:
            busy.add_metric([one.name], one.busy)
    yield from (heat, trip, clock, most, busy)
    yield _gauge("throttled", "1 if heat or power slow the device down", bool(device.throttled))
    if device.power_mode is not None:
        yield _labelled("power_mode_info", "Mode of nvpmodel", mode=device.power_mode)
    if device.available_bytes is not None:
        yield _gauge("memory_available_bytes", "Memory that can be had", device.available_bytes)
    if device.total_bytes is not None:
        yield _gauge("memory_total_bytes", "Memory of the device", device.total_bytes)
    if device.over_current is not None:
        family = CounterMetricFamily("deepfusion_over_current", "Slowed down by the power supply")
        family.add_metric([], device.over_current)
        yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"deepfusion_{name}", text, value=float(value))


def _labelled(name: str, text: str, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"deepfusion_{name}", text, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family
