"""The loop: frame -> factors -> graph -> verdict -> outbox; the only file that starts threads.

One thread judges (the caller's), one publishes. They share the outbox and nothing else.
"""

import logging
import secrets
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from deepfusion_edge.bundle.manifest import Manifest
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.erosion import MAX_SEED, Factors, identity, sample, stream_of
from deepfusion_edge.errors import DeepFusionError, InputError, ModelError, UnreachableError
from deepfusion_edge.fusion import Outputs, judge
from deepfusion_edge.image import decode, to_input
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report import payload
from deepfusion_edge.report.mqtt import Publisher
from deepfusion_edge.runtime.base import Session
from deepfusion_edge.source import SOURCES
from deepfusion_edge.source.base import Frame, Source

log = logging.getLogger(__name__)

ALERT_TIMEOUT_S = 5.0
_LATENCIES = 10_000


class Line(NamedTuple):
    """What judges frames: an installed bundle, loaded.

    Attributes:
        manifest: the bundle's, verified.
        digest: SHA-256 (hex) that names the bundle in every record.
        session: its graph.
    """

    manifest: Manifest
    digest: str
    session: Session


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        frames: accepted + suspect + rejected + unreadable.
        rejected: by the verdict, or because the graph failed on the frame.
        sent, kept: events confirmed by the broker in this run; events still in the outbox.
        latency_ms_p50: median from bytes to verdict, of the last 10,000 frames; None without any.
    """

    frames: int
    accepted: int
    suspect: int
    rejected: int
    unreadable: int
    sent: int
    kept: int
    latency_ms_p50: float | None


class Judge:
    """Turns frames into events in the outbox."""

    def __init__(
        self,
        config: AgentConfig,
        line: Line,
        outbox: Outbox,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=_LATENCIES)
        self._agent = config.mqtt.client_id
        self._seed = config.model.seed
        self._members = config.model.members or line.manifest.erosion.members
        self._line, self._outbox, self._now = line, outbox, now
        self.bundle = payload.BundleRef(
            id=line.manifest.id, digest=line.digest, sequence=line.manifest.sequence
        )

    def warm_up(self) -> None:
        """Run once on a black image, so that the first frame is not the slow one.

        Raises:
            ModelError: the graph does not run, or does not fit classes and members.
        """
        size = self._line.manifest.preprocess
        image = np.zeros((1, 3, size.height, size.width), dtype=np.float32)
        self._run(image, identity(self._line.manifest.erosion.sites, self._members))

    def take(self, frame: Frame) -> None:
        """Judge one frame and put what there is to say into the outbox.

        Raises:
            StorageError: the outbox cannot be written.
        """
        subject = payload.Subject(
            source=frame.source,
            frame=frame.name,
            sequence=frame.sequence,
            captured_s=frame.captured_s,
        )
        begun = time.perf_counter()
        try:
            image = self._image(frame)
        except DeepFusionError as error:
            self.counts["unreadable"] += 1
            self.alert("unreadable", str(error), subject=subject)
            return
        draw = self._draw(frame)
        try:
            outputs = self._run(image, self._factors(draw))
        except ModelError as error:
            # Fail safe: no verdict is a rejection, and one odd frame must not stop the line.
            self.counts["reject"] += 1
            self.alert("model", str(error), subject=subject)
            return
        verdict = judge(outputs, self._line.manifest.thresholds)
        latency_ms = 1000 * (time.perf_counter() - begun)
        self.latencies_ms.append(latency_ms)
        self.counts[verdict.state] += 1

        def render(name: str) -> bytes:
            return payload.encode(
                payload.decision(
                    f"{self._agent}-{name}",
                    agent=self._agent,
                    subject=subject,
                    bundle=self.bundle,
                    classes=self._line.manifest.classes,
                    verdict=verdict,
                    draw=draw,
                    latency_ms=latency_ms,
                )
            )

        name = self._outbox.put(f"decision/{frame.source}", render, now_s=self._now())
        says = (
            f"{self._line.manifest.classes[verdict.label]} {verdict.confidence:.3f}, feature"
            f" variance {verdict.feature_variance:.4g}, disagreement {verdict.disagreement:.4g}"
        )
        log.info("%s %s/%s: %s", verdict.state, frame.source, frame.name, says)
        if verdict.state != "accept":
            self.alert(verdict.state, says, subject=subject, about=f"{self._agent}-{name}")

    def alert(
        self,
        kind: payload.AlertKind,
        reason: str,
        *,
        subject: payload.Subject | None = None,
        about: str | None = None,
    ) -> None:
        """Put an alert into the outbox and the log."""
        put_alert(
            self._outbox, self._agent, kind, reason, self._now(), subject=subject, about=about
        )

    def summary(self, *, sent: int, kept: int) -> Summary:
        """Count what was judged so far."""
        counts, latencies = self.counts, self.latencies_ms
        return Summary(
            frames=sum(counts.values()),
            accepted=counts["accept"],
            suspect=counts["suspect"],
            rejected=counts["reject"],
            unreadable=counts["unreadable"],
            sent=sent,
            kept=kept,
            latency_ms_p50=round(statistics.median(latencies), 3) if latencies else None,
        )

    def _image(self, frame: Frame) -> npt.NDArray[np.float32]:
        content = frame.content
        if isinstance(content, DeepFusionError):
            raise content
        if isinstance(content, bytes):
            content = decode(content, max_pixels=frame.max_pixels)
        size = self._line.manifest.preprocess
        return to_input(content, size.height, size.width)

    def _draw(self, frame: Frame) -> payload.Draw:
        if self._seed is None:
            # One secret draw a frame: a published seed must not tell the next frame's factors.
            return payload.Draw(seed=secrets.randbits(53), stream=0)
        return payload.Draw(self._seed, stream_of(frame.source, frame.name) % (MAX_SEED + 1))

    def _factors(self, draw: payload.Draw) -> Factors:
        sites = self._line.manifest.erosion.sites
        return sample(sites, seed=draw.seed, stream=draw.stream, members=self._members)

    def _run(self, image: npt.NDArray[np.float32], factors: Factors) -> Outputs:
        outputs = self._line.session.run(image, factors)
        classes = len(self._line.manifest.classes)
        members = len(factors) * self._line.manifest.erosion.bases
        shapes = (outputs.fused.shape, outputs.members.shape)
        if shapes != ((classes,), (members, classes)):
            raise ModelError(
                f"graph gives fused {shapes[0]} and members {shapes[1]} for {classes} classes"
                f" and {members} members",
                "export the bundle again",
            )
        if not all(np.isfinite(value).all() for value in outputs):
            raise ModelError("graph gives NaN or infinity", "keep the frame and report it")
        return outputs


def put_alert(
    outbox: Outbox,
    agent: str,
    kind: payload.AlertKind,
    reason: str,
    now_s: float,
    *,
    subject: payload.Subject | None = None,
    about: str | None = None,
) -> None:
    """Put an alert, perhaps about the decision with id ``about``, into the outbox and the log."""

    def render(name: str) -> bytes:
        return payload.encode(
            payload.alert(
                f"{agent}-{name}",
                agent=agent,
                kind=kind,
                reason=reason,
                time_s=now_s,
                subject=subject,
                decision_id=about,
            )
        )

    outbox.put("alert", render, now_s=now_s)
    where = f"{subject.source}/{subject.frame}: " if subject else ""
    log.warning("alert %s: %s%s", kind, where, reason)


def load_line(config: AgentConfig) -> Line:
    """Load the installed bundle of ``state_dir``, verified again, into ONNX Runtime.

    Raises:
        InputError: nothing is installed.
        TrustError: what is installed is damaged or expired.
        ModelError: the runtime is not there or does not take the graph.
    """
    from deepfusion_edge.bundle.store import load_current
    from deepfusion_edge.runtime.ort import OrtSession

    installed = load_current(Path(config.state_dir), now=utc_now())
    session = OrtSession(installed.model_bytes(), threads=config.model.threads)
    return Line(installed.manifest, installed.bundle_hash, session)


def utc_now() -> str:
    """Return the time as manifests spell it: UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def run_agent(
    config: AgentConfig,
    *,
    stop: threading.Event,
    password: str | None = None,
    load: Callable[[AgentConfig], Line] = load_line,
) -> Summary:
    """Judge all frames and publish until the sources end or ``stop`` is set, then drain.

    Args:
        config: see :class:`AgentConfig`.
        stop: set it to end the run gracefully.
        password: of the broker.
        load: gives the bundle that judges.

    Raises:
        InputError: a source's folder is missing or empty, or no bundle is installed.
        TrustError, ModelError: the bundle cannot be used; subscribers are alerted.
        UnreachableError: the sources ended, and not all events could be delivered in time.
        StorageError: the outbox cannot be written, or is another process's.
    """
    if not Path(config.state_dir).is_dir():
        raise InputError(
            f"state_dir {config.state_dir} is no folder",
            "install a bundle there first: deepfusion-agent install",
        )
    sources = [SOURCES[type(section)](section) for section in config.sources]
    limits = config.outbox
    with Outbox(
        Path(config.state_dir),
        max_events=limits.max_events,
        max_bytes=limits.max_bytes,
        ttl_s=limits.ttl_s,
    ) as outbox:
        return _run(config, sources, outbox, stop=stop, password=password, load=load)


def _run(
    config: AgentConfig,
    sources: Sequence[Source],
    outbox: Outbox,
    *,
    stop: threading.Event,
    password: str | None,
    load: Callable[[AgentConfig], Line],
) -> Summary:
    agent, timeout_s = config.mqtt.client_id, config.run.drain_timeout_s
    sent_before = outbox.counters(now_s=time.time()).sent
    state = payload.AgentState(agent=agent, state="online", reason="running")

    def describe() -> payload.AgentState:
        moment = time.time()
        counters = outbox.counters(now_s=moment)._asdict()
        return replace(state, time=payload.rfc3339(moment), counters=counters)

    publisher = Publisher(config.mqtt, outbox, describe, password=password)
    if outbox.moved_aside is not None:
        lost = f"corrupt outbox moved to {outbox.moved_aside}, its events are lost"
        put_alert(outbox, agent, "outbox", lost, time.time())
    try:
        line = load(config)
        work = Judge(config, line, outbox)
        work.warm_up()
    except DeepFusionError as error:
        put_alert(outbox, agent, "bundle", str(error), time.time())
        with _Publishing(publisher, stop, drain_timeout_s=min(timeout_s, ALERT_TIMEOUT_S)):
            raise
    state = replace(state, bundle=work.bundle, provider=line.session.provider)
    log.info("bundle %s %d on %s", work.bundle.id, work.bundle.sequence, line.session.provider)
    with _Publishing(publisher, stop, drain_timeout_s=timeout_s):
        for frame in _interleave(sources, stop):
            work.take(frame)
    kept = outbox.kept
    if kept and not stop.is_set():
        raise _undelivered(publisher, kept, timeout_s)
    if kept:
        log.warning("%d events are kept in the outbox and go out with the next run", kept)
    return work.summary(sent=outbox.counters(now_s=time.time()).sent - sent_before, kept=kept)


class _Publishing:
    """The publisher's thread as a context: leaving it drains; its failure ends the run."""

    def __init__(
        self, publisher: Publisher, stop: threading.Event, *, drain_timeout_s: float
    ) -> None:
        self._publisher, self._stop, self._timeout_s = publisher, stop, drain_timeout_s
        self._finish = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finish.set()
        self._thread.join()
        if self._failure is not None and kind is None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._publisher.run(self._finish, drain_timeout_s=self._timeout_s)
        except BaseException as error:  # noqa: BLE001 - carried to the thread that can report it
            self._failure = error
            self._stop.set()


def _interleave(sources: Sequence[Source], stop: threading.Event) -> Iterator[Frame]:
    """Take one frame of each source in turn, so that no busy source starves another."""
    alive = [(iter(source), source.poll_interval_s) for source in sources]
    while alive and not stop.is_set():
        idle = True
        for turn in list(alive):
            try:
                frame = next(turn[0])
            except StopIteration:
                alive.remove(turn)
                continue
            if frame is not None:
                idle = False
                yield frame
            if stop.is_set():
                return
        if idle and alive:
            stop.wait(min(poll_interval_s for _, poll_interval_s in alive) / 4)


def _undelivered(publisher: Publisher, kept: int, waited_s: float) -> UnreachableError:
    told = "stopped answering" if publisher.answered else "does not answer"
    return UnreachableError(
        f"broker {publisher.address} {told} ({publisher.reason}, waited {waited_s:g} s after the"
        f" last frame); {kept} events are kept in the outbox",
        "they go out with the next run: start the broker or correct the mqtt section",
    )
