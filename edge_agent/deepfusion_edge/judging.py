"""From a frame to a verdict, and what is said of it: factors, graph, policy, outbox."""

import logging
import secrets
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepfusion_edge.bundle.manifest import Manifest
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.erosion import MAX_SEED, Factors, identity, sample, stream_of
from deepfusion_edge.errors import DeepFusionError, ModelError
from deepfusion_edge.fusion import Outputs, Verdict, judge
from deepfusion_edge.image import decode, to_input
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.policy import Level, Look, follow, look
from deepfusion_edge.report import payload
from deepfusion_edge.runtime.base import Session
from deepfusion_edge.source.base import Frame

log = logging.getLogger(__name__)

_LATENCIES = 10_000


class Line(NamedTuple):
    """What judges frames: an installed bundle, loaded.

    Attributes:
        manifest: the bundle's, verified.
        digest: SHA-256 (hex) that names the bundle in every record.
        session: its graph.
        fallback: why the graph is not on the GPU although it was to be; None if nothing is wrong.
    """

    manifest: Manifest
    digest: str
    session: Session
    fallback: str | None = None


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        frames: accepted + suspect + rejected + unreadable.
        rejected: by the verdict, or because the graph failed on the frame.
        escalated: frames that all members judged although a policy begins with fewer.
        sent, kept: events confirmed by the broker in this run; events still in the outbox.
        latency_ms_p50: median from bytes to verdict, of the last 10,000 frames; None without any.
    """

    frames: int
    accepted: int
    suspect: int
    rejected: int
    unreadable: int
    escalated: int
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
        fixed = config.model.members is not None or not config.model.policy
        self._policy = None if fixed else line.manifest.policy
        calibrated = line.manifest.erosion.members
        if line.manifest.thresholds is not None and self._members != calibrated:
            log.warning(
                "thresholds were calibrated over %d members, model.members is %d:"
                " the false-positive rate will be another",
                calibrated,
                self._members,
            )
        self._levels: defaultdict[str, Level] = defaultdict(Level)
        self._escalated = 0
        self._line, self._outbox, self._now = line, outbox, now
        self.bundle = payload.BundleRef(
            id=line.manifest.id, digest=line.digest, sequence=line.manifest.sequence
        )

    def warm_up(self) -> None:
        """Run on a black image, so that the first frame is not the slow one.

        Raises:
            ModelError: the graph does not run, or does not fit classes and members.
        """
        size = self._line.manifest.preprocess
        image = np.zeros((1, 3, size.height, size.width), dtype=np.float32)
        for members in {self._members, self._policy.start if self._policy else self._members}:
            self._run(image, identity(self._line.manifest.erosion.sites, members))

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
            seen = self._look(image, self._factors(draw), frame.source)
        except ModelError as error:
            # Fail safe: no verdict is a rejection, and one odd frame must not stop the line.
            self.counts["reject"] += 1
            self.alert("model", str(error), subject=subject)
            return
        verdict = seen.verdict
        latency_ms = 1000 * (time.perf_counter() - begun)
        self.latencies_ms.append(latency_ms)
        self.counts[verdict.state] += 1
        self._escalated += self._policy is not None and seen.runs[-1] == self._members

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
        self._follow(seen, subject)

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
            escalated=self._escalated,
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

    def _look(self, image: npt.NDArray[np.float32], factors: Factors, source: str) -> Look:
        policy, manifest = self._policy, self._line.manifest

        def judged(members: int) -> Verdict:
            thresholds = manifest.thresholds
            if policy is not None and members == policy.start:
                thresholds = policy.thresholds
            return judge(self._run(image, factors[:members]), thresholds)

        raised = self._levels[source].raised
        return look(judged, policy, members=self._members, raised=raised)

    def _follow(self, seen: Look, subject: payload.Subject) -> None:
        """Take a frame into its source's trend; say once that K is raised, once that it falls."""
        if self._policy is None:
            return
        trend, before = self._policy.trend, self._levels[subject.source]
        after = follow(trend, before, unusual=seen.unusual)
        self._levels[subject.source] = after
        share = f"share of unusual frames {after.share:.3f}"
        if after.raised and not before.raised:
            now = f"{share} reached {trend.rise:.3f}: all {self._members} members judge each frame"
            self.alert("trend", now, subject=subject)
        elif before.raised and not after.raised:
            now = f"{share} is back at {trend.fall:.3f}: {self._policy.start} members judge first"
            self.alert("trend", now, subject=subject)

    def _run(self, image: npt.NDArray[np.float32], factors: Factors) -> Outputs:
        outputs = self._line.session.run(image, factors)
        classes = len(self._line.manifest.classes)
        shapes = (outputs.fused.shape, outputs.members.shape)
        members = len(factors) * self._line.manifest.erosion.bases
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
