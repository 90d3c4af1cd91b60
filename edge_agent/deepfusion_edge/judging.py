"""From a frame to a verdict, and what is said of it: factors, graph, policy, outbox."""

import logging
import secrets
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deepfusion_edge.alerts import Alerts, Failure
from deepfusion_edge.bundle.manifest import Preprocess
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.erosion import MAX_SEED, Factors, identity, sample, stream_of
from deepfusion_edge.errors import DeepFusionError, ModelError
from deepfusion_edge.feed import Prepared
from deepfusion_edge.fusion import Outputs, Verdict, judge
from deepfusion_edge.image import GraphImage, Pixels, as_input, decode
from deepfusion_edge.line import Line, check_provider
from deepfusion_edge.observer import Judged, Observer, Timing
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.policy import Level, Look, Policy, follow, look
from deepfusion_edge.report import payload
from deepfusion_edge.source.base import Frame

log = logging.getLogger(__name__)

_LATENCIES = 10_000


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


class Setting(NamedTuple):
    """What judges now; replaced as a whole, so that no frame sees half of a change.

    Attributes:
        line: bundle and session.
        members: K.
        policy: None runs all K members for every frame.
    """

    line: Line
    members: int
    policy: Policy | None


class Judge:
    """Turns frames into events in the outbox.

    One thread judges; :meth:`prepare` may run in another. A change (:meth:`use`, :meth:`choose`)
    belongs to the judging thread: ask for it through ``Control.request``.
    """

    def __init__(
        self,
        config: AgentConfig,
        line: Line,
        outbox: Outbox,
        *,
        alerts: Alerts,
        observer: Observer | None = None,
        beat: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            config: for the agent's name and how the graph is run.
            line: what judges first.
            outbox: where decisions go.
            alerts: told of what is not as it should be.
            observer: told of every frame.
            beat: called before and after each run of the graph, for the watchdog.
            now: seconds since 1970, for ages.
        """
        self.counts: Counter[str] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=_LATENCIES)
        self.alerts = alerts
        self._agent = config.mqtt.client_id
        self._seed = config.model.seed
        self._require_gpu = config.model.require_gpu
        self._members, self._adaptive = config.model.members, config.model.policy
        self._levels: defaultdict[str, Level] = defaultdict(Level)
        self._escalated = 0
        self._inferred_ms = 0.0
        self._outbox, self._now = outbox, now
        self._observer = observer or Observer()
        self._beat = beat
        self._setting = self._fit(line, self._members, adaptive=self._adaptive)

    @property
    def setting(self) -> Setting:
        """What judges now."""
        return self._setting

    @property
    def bundle(self) -> payload.BundleRef:
        """Which bundle judges now."""
        return _reference(self._setting.line)

    def warm_up(self) -> None:
        """Run on a black image, so that the first frame is not the slow one.

        Raises:
            ModelError: the graph does not run, or does not fit classes and members.
        """
        self._warm_up(self._setting)

    def use(self, line: Line) -> None:
        """Judge by another bundle from the next frame on, if it warms up; trends begin anew.

        Raises:
            ModelError: it does not run, or not on the GPU that is required; the old one stays.
        """
        check_provider(line, require_gpu=self._require_gpu)
        setting = self._fit(line, self._members, adaptive=self._adaptive)
        self._warm_up(setting)
        self._setting = setting
        self._levels.clear()

    def choose(self, *, members: int | None, adaptive: bool) -> None:
        """Run so many members from the next frame on, as ``model.members`` and ``policy`` say.

        Raises:
            ModelError: the graph does not run with so many; what was chosen before stays.
        """
        setting = self._fit(self._setting.line, members, adaptive=adaptive)
        self._warm_up(setting)
        self._members, self._adaptive = members, adaptive
        self._setting = setting
        self._levels.clear()

    def prepare(self, frame: Frame) -> Prepared:
        """Decode and resize a frame and draw its factors, for what judges now; raises nothing."""
        begun = time.perf_counter()
        prepared = self._prepared(frame, _pixels(frame), self._setting)
        return prepared._replace(prepare_ms=1000 * (time.perf_counter() - begun))

    def take(self, prepared: Prepared) -> None:
        """Judge one frame and put what there is to say into the outbox.

        Raises:
            StorageError: the outbox cannot be written.
        """
        begun = time.perf_counter()
        frame, setting = prepared.frame, self._setting
        subject = payload.Subject(
            source=frame.source,
            frame=frame.name,
            sequence=frame.sequence,
            captured_s=frame.captured_s,
        )
        self._inferred_ms = 0.0
        pixels = prepared.pixels
        if isinstance(pixels, DeepFusionError):
            self._fail(prepared, "unreadable", pixels, subject, begun)
            return
        if prepared.setting is not setting:  # it was replaced meanwhile
            again = self._prepared(frame, pixels, setting)
            prepared = again._replace(prepare_ms=prepared.prepare_ms)
        image, draw, factors = prepared.image, prepared.draw, prepared.factors
        if isinstance(image, DeepFusionError):
            self._fail(prepared, "unreadable", image, subject, begun)
            return
        assert image is not None and draw is not None and factors is not None  # noqa: S101, PT018 - see _prepared
        try:
            seen = self._look(setting, image, factors, frame.source)
        except ModelError as error:
            # Fail safe: no verdict is a rejection, and one odd frame must not stop the line.
            self._fail(prepared, "model", error, subject, begun)
            return
        timing = self._timing(prepared, begun)
        verdict = seen.verdict
        self.latencies_ms.append(timing.total_ms)
        self.counts[verdict.state] += 1
        self._escalated += setting.policy is not None and seen.runs[-1] == setting.members
        bundle, classes = _reference(setting.line), setting.line.manifest.classes

        def render(name: str) -> bytes:
            return payload.encode(
                payload.decision(
                    f"{self._agent}-{name}",
                    agent=self._agent,
                    subject=subject,
                    bundle=bundle,
                    classes=classes,
                    verdict=verdict,
                    draw=draw,
                    latency_ms=timing.total_ms,
                )
            )

        name = self._outbox.put(f"decision/{frame.source}", render, now_s=self._now())
        event, class_name = f"{self._agent}-{name}", classes[verdict.label]
        says = (
            f"{class_name} {verdict.confidence:.3f}, feature"
            f" variance {verdict.feature_variance:.4g}, disagreement {verdict.disagreement:.4g}"
        )
        log.info("%s %s/%s: %s", verdict.state, frame.source, frame.name, says)
        if verdict.state != "accept":
            self.alerts.tell(verdict.state, says, subject=subject, about=event)
        self._observer.judged(Judged(frame, pixels, verdict, class_name, None, event, timing))
        self._follow(setting, seen, subject)

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

    def _fit(self, line: Line, members: int | None, *, adaptive: bool) -> Setting:
        calibrated = line.manifest.erosion.members
        chosen = members or calibrated
        if line.manifest.thresholds is not None and chosen != calibrated:
            log.warning(
                "thresholds were calibrated over %d members, %d run:"
                " the false-positive rate will be another",
                calibrated,
                chosen,
            )
        free = members is None and adaptive
        return Setting(line, chosen, line.manifest.policy if free else None)

    def _warm_up(self, setting: Setting) -> None:
        size = setting.line.manifest.preprocess
        image = as_input(np.zeros((size.height, size.width, 3), np.uint8), size)
        counts = {setting.members, setting.policy.start if setting.policy else setting.members}
        for members in counts:
            self._run(setting, image, identity(setting.line.manifest.erosion.sites, members))

    def _fail(
        self,
        prepared: Prepared,
        kind: Failure,
        error: DeepFusionError,
        subject: payload.Subject,
        begun: float,
    ) -> None:
        self.counts["reject" if kind == "model" else kind] += 1
        self.alerts.frame_failed(kind, str(error), subject)
        pixels = None if isinstance(prepared.pixels, DeepFusionError) else prepared.pixels
        timing = self._timing(prepared, begun)
        self._observer.judged(Judged(prepared.frame, pixels, None, None, str(error), None, timing))

    def _timing(self, prepared: Prepared, begun: float) -> Timing:
        return Timing(
            prepare_ms=prepared.prepare_ms,
            infer_ms=self._inferred_ms,
            total_ms=prepared.prepare_ms + 1000 * (time.perf_counter() - begun),
            age_ms=1000 * (self._now() - prepared.frame.captured_s),
        )

    def _prepared(
        self, frame: Frame, pixels: Pixels | DeepFusionError, setting: Setting
    ) -> Prepared:
        if isinstance(pixels, DeepFusionError):
            return Prepared(frame, pixels, 0.0, setting=setting)
        image = _fitted(pixels, setting.line.manifest.preprocess)
        draw = self._draw(frame)
        factors = self._factors(setting, draw)
        return Prepared(frame, pixels, 0.0, image, draw, factors, setting)

    def _draw(self, frame: Frame) -> payload.Draw:
        if self._seed is None:
            # One secret draw a frame: a published seed must not tell the next frame's factors.
            return payload.Draw(seed=secrets.randbits(53), stream=0)
        return payload.Draw(self._seed, stream_of(frame.source, frame.name) % (MAX_SEED + 1))

    def _factors(self, setting: Setting, draw: payload.Draw) -> Factors:
        sites = setting.line.manifest.erosion.sites
        return sample(sites, seed=draw.seed, stream=draw.stream, members=setting.members)

    def _look(self, setting: Setting, image: GraphImage, factors: Factors, source: str) -> Look:
        policy, manifest = setting.policy, setting.line.manifest

        def judged(members: int) -> Verdict:
            thresholds = manifest.thresholds
            if policy is not None and members == policy.start:
                thresholds = policy.thresholds
            return judge(self._run(setting, image, factors[:members]), thresholds)

        raised = self._levels[source].raised
        return look(judged, policy, members=setting.members, raised=raised)

    def _follow(self, setting: Setting, seen: Look, subject: payload.Subject) -> None:
        """Take a frame into its source's trend; say once that K is raised, once that it falls."""
        policy = setting.policy
        if policy is None:
            return
        trend, before = policy.trend, self._levels[subject.source]
        after = follow(trend, before, unusual=seen.unusual)
        self._levels[subject.source] = after
        share = f"share of unusual frames {after.share:.3f}"
        if after.raised and not before.raised:
            now = (
                f"{share} reached {trend.rise:.3f}: all {setting.members} members judge each frame"
            )
            self.alerts.tell("trend", now, subject=subject)
        elif before.raised and not after.raised:
            now = f"{share} is back at {trend.fall:.3f}: {policy.start} members judge first"
            self.alerts.tell("trend", now, subject=subject)

    def _run(self, setting: Setting, image: GraphImage, factors: Factors) -> Outputs:
        begun = time.perf_counter()
        self._beat()
        outputs = setting.line.session.run(image, factors)
        self._beat()
        self._inferred_ms += 1000 * (time.perf_counter() - begun)
        classes = len(setting.line.manifest.classes)
        shapes = (outputs.fused.shape, outputs.members.shape)
        members = len(factors) * setting.line.manifest.erosion.bases
        if shapes != ((classes,), (members, classes)):
            raise ModelError(
                f"graph gives fused {shapes[0]} and members {shapes[1]} for {classes} classes"
                f" and {members} members",
                "export the bundle again",
            )
        if not all(np.isfinite(value).all() for value in outputs):
            raise ModelError("graph gives NaN or infinity", "keep the frame and report it")
        return outputs


def _reference(line: Line) -> payload.BundleRef:
    manifest = line.manifest
    return payload.BundleRef(id=manifest.id, digest=line.digest, sequence=manifest.sequence)


def _fitted(pixels: Pixels, wanted: Preprocess) -> GraphImage | DeepFusionError:
    try:
        return as_input(pixels, wanted)
    except DeepFusionError as error:
        return error


def _pixels(frame: Frame) -> Pixels | DeepFusionError:
    content = frame.content
    if not isinstance(content, bytes):
        return content
    try:
        return decode(content, max_pixels=frame.max_pixels)
    except DeepFusionError as error:
        return error
