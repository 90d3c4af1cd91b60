"""The loop: frame -> factors -> graph -> verdict -> outbox; the only file that starts threads.

One thread judges (the caller's), one publishes. They share the outbox and nothing else.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from deepfusion_edge.config import AgentConfig
from deepfusion_edge.errors import DeepFusionError, InputError, UnreachableError
from deepfusion_edge.judging import Judge, Line, Summary, put_alert
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report import payload
from deepfusion_edge.report.publisher import Publisher
from deepfusion_edge.source import SOURCES
from deepfusion_edge.source.base import Frame, Source

log = logging.getLogger(__name__)

ALERT_TIMEOUT_S = 5.0


def load_line(config: AgentConfig) -> Line:
    """Load the installed bundle of ``state_dir``, verified again, into the configured runtime.

    Raises:
        InputError: nothing is installed.
        TrustError: what is installed is damaged or expired.
        ModelError: the runtime is not there, does not take the graph, or gives other outputs.
    """
    from deepfusion_edge.bundle.store import load_current
    from deepfusion_edge.runtime.choice import open_session, span_of
    from deepfusion_edge.runtime.engine_cache import ENGINES

    installed = load_current(Path(config.state_dir), now=utc_now())
    chosen = config.model
    opened = open_session(
        installed,
        chosen.runtime,
        span_of(installed, members=chosen.members, policy=chosen.policy),
        Path(config.state_dir, ENGINES),
        threads=chosen.threads,
    )
    return Line(installed.manifest, installed.bundle_hash, opened.session, opened.fallback)


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
        if line.fallback is not None:
            work.alert("runtime", line.fallback)
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
