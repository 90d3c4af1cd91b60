"""The loop: frame -> factors -> graph -> verdict -> outbox; the only file that starts threads.

Up to seven threads: one judges (the caller's), one feeds it with prepared frames, one tells the
observers, one publishes, one carries commands out, one serves the status page, and one watches that
the judging one moves. They share the outbox, the control and the observers.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from deepfusion_edge.alerts import Alerts
from deepfusion_edge.bundle.history import newest_first
from deepfusion_edge.commands import start
from deepfusion_edge.commands.desk import Desk
from deepfusion_edge.commands.ledger import read_ledger
from deepfusion_edge.commands.window import Window
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.control import Control
from deepfusion_edge.errors import (
    DeepFusionError,
    InputError,
    RestartError,
    StorageError,
    StuckError,
    UnreachableError,
)
from deepfusion_edge.feed import Feed
from deepfusion_edge.health.seeing import Lately, Living, Seeing
from deepfusion_edge.health.sensors import read_device
from deepfusion_edge.health.server import serve
from deepfusion_edge.judging import Judge, Summary
from deepfusion_edge.line import Line, load_line, utc_now
from deepfusion_edge.observer import Everyone, Handed, Observer
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.remote import Remote
from deepfusion_edge.report import payload
from deepfusion_edge.report.publisher import Publisher
from deepfusion_edge.source import open_source
from deepfusion_edge.watchdog import Watchdog, notify
from deepfusion_edge.worker import Worker

log = logging.getLogger(__name__)

ALERT_TIMEOUT_S = 5.0
DEVICE_AGE_S = 1.0
TURN_S = 0.1


def run_agent(
    config: AgentConfig,
    *,
    stop: threading.Event,
    password: str | None = None,
    load: Callable[[AgentConfig], Line] = load_line,
    observers: Sequence[Observer] = (),
) -> Summary:
    """Judge all frames and publish until the sources end or ``stop`` is set, then drain.

    A judging thread that does not move for ``model.watchdog_s`` seconds ends the *process*, with an
    alert and the exit code of :class:`StuckError`: a graph that hangs cannot be interrupted.

    Args:
        config: see :class:`AgentConfig`.
        stop: set it to end the run gracefully.
        password: of the broker.
        load: gives the bundle that judges.
        observers: told what happens.

    Raises:
        InputError: a source's folder is missing or empty, or no bundle is installed.
        TrustError, ModelError: the bundle cannot be used; subscribers are alerted.
        UnreachableError: the sources ended, and not all events could be delivered in time.
        StorageError: the outbox cannot be written, or is another process's.
        RestartError: the run ended, in order, because a restart was asked for.
    """
    if not Path(config.state_dir).is_dir():
        raise InputError(
            f"state_dir {config.state_dir} is no folder",
            "install a bundle there first: deepfusion-agent install",
        )
    limits = config.outbox
    with Outbox(
        Path(config.state_dir),
        max_events=limits.max_events,
        max_bytes=limits.max_bytes,
        ttl_s=limits.ttl_s,
    ) as outbox:
        control: Control[Judge] = Control(stop)
        agent = _Agent(start.chosen(config), outbox, control, observers, password=password)
        try:
            summary = agent.run(load)
        finally:
            control.close()
        if control.restart_reason is not None:
            raise RestartError.because(control.restart_reason)
        return summary


class _Agent:
    """One run: what its threads share, and their bodies."""

    def __init__(
        self,
        config: AgentConfig,
        outbox: Outbox,
        control: Control[Judge],
        observers: Sequence[Observer],
        *,
        password: str | None,
    ) -> None:
        self._config, self._outbox, self._control = config, outbox, control
        self._name = config.mqtt.client_id
        self._sources = [open_source(section) for section in config.sources]
        self._watchdog = Watchdog(config.model.watchdog_s)
        self._judge: Judge | None = None
        self._feed: Feed | None = None
        self._publishing: Worker | None = None
        self._lost: set[str] = set()  # sources of which it was said
        self._window = Window()
        self._problem: str | None = None
        self._desk = self._open_desk()
        heard = [s.subscription for s in self._sources if s.subscription is not None]
        self._device = Lately(read_device, age_s=DEVICE_AGE_S)
        self._publisher = Publisher(
            config.mqtt,
            outbox,
            self._tell_state,
            password=password,
            subscriptions=[*heard, *(self._desk.subscriptions if self._desk else ())],
        )
        self._seeing: Seeing | None = None
        if config.http is not None:
            self._seeing = Seeing(self._living(), config.http, stuck_s=config.model.watchdog_s / 2)
            observers = (*observers, *self._seeing.observers)
        self._handed = Handed(Everyone(observers))
        # The window at once: a frame of the bundle before must not count for the one after.
        self._observer = Everyone((self._window, self._handed))
        self._alerts = Alerts(config, outbox, observer=self._observer)

    def run(self, load: Callable[[AgentConfig], Line]) -> Summary:
        """Run; see :func:`run_agent`."""
        outbox, timeout_s = self._outbox, self._config.run.drain_timeout_s
        sent_before = outbox.counters(now_s=time.time()).sent
        publisher = self._publisher
        if outbox.moved_aside is not None:
            lost = f"corrupt outbox moved to {outbox.moved_aside}, its events are lost"
            self._alerts.tell("outbox", lost)
        if self._problem is not None:
            self._alerts.tell("commands", self._problem)

        def publish(drain_timeout_s: float) -> Worker:
            def work(finish: threading.Event) -> None:
                publisher.run(finish, drain_timeout_s=drain_timeout_s)

            return Worker("publisher", work, self._control.stop)

        with ExitStack() as threads:
            if self._seeing is not None:
                threads.enter_context(Worker("http", self._serve, self._control.stop))
            threads.enter_context(Worker("observers", self._handed.run, self._control.stop))
            threads.enter_context(Worker("watch", self._watch, self._control.stop))
            try:
                judge = start.begin(
                    self._config,
                    lambda: self._begin(load),
                    now=utc_now(),
                    told=lambda why: self._alerts.tell("bundle", why),
                )
            except DeepFusionError as error:
                self._watchdog.rest()
                self._alerts.tell("bundle", str(error))
                with publish(min(timeout_s, ALERT_TIMEOUT_S)):
                    raise
            with publish(timeout_s) as self._publishing, self._commands():
                self._loop(judge)
                notify("STOPPING=1")
                self._watchdog.rest()
                self._control.close()  # nobody waits for a loop that has ended
            start.end(self._config)
        kept = outbox.kept
        if kept and not self._control.stop.is_set():
            raise _undelivered(publisher, kept, timeout_s)
        if kept:
            log.warning("%d events are kept in the outbox and go out with the next run", kept)
        return judge.summary(sent=outbox.counters(now_s=time.time()).sent - sent_before, kept=kept)

    def _begin(self, load: Callable[[AgentConfig], Line]) -> Judge:
        """Load the bundle and let nothing be judged before it has passed its warm-up."""
        line = load(self._config)
        judge = Judge(
            self._config,
            line,
            self._outbox,
            alerts=self._alerts,
            observer=self._observer,
            beat=self._watchdog.beat,
        )
        judge.warm_up()
        if line.fallback is not None:
            self._alerts.tell("runtime", line.fallback)
        bundle = judge.bundle
        log.info("bundle %s %d on %s", bundle.id, bundle.sequence, line.session.provider)
        self._judge = judge
        self._feed = Feed(self._sources, judge.prepare, changed=self._source_changed)
        notify("READY=1")
        return judge

    def _open_desk(self) -> Desk | None:
        """Take commands if a key may give them; without it only end what was begun."""
        try:
            if (
                not self._config.commands.keys
                and not read_ledger(Path(self._config.state_dir)).pending
            ):
                return None
            remote = Remote(self._config, self._control)
            return Desk(self._config, self._outbox, remote, self._window)
        except StorageError as error:
            # Inspection goes on without commands; a person has to look at the ledger.
            self._problem = str(error)
            return None

    def _commands(self) -> AbstractContextManager[object]:
        if self._desk is None:
            return nullcontext()
        return Worker("commands", self._desk.run, self._control.stop)

    def _loop(self, judge: Judge) -> None:
        feed, stop = self._feed, self._control.stop
        assert feed is not None  # noqa: S101 - _begin made it
        with Worker("feeder", feed.run, stop):
            while not (stop.is_set() or feed.ended):
                self._watchdog.beat()
                self._control.serve(judge)
                prepared = feed.take(TURN_S)
                if prepared is not None:
                    judge.take(prepared)
                self._alerts.tell_due()
        left = feed.take(0)  # what had left its source before the end is judged too
        if left is not None:
            judge.take(left)
        self._alerts.tell_due(ending=True)

    def _watch(self, finish: threading.Event) -> None:
        """Keep systemd content while the judging thread moves; end the process when it does not."""
        turn_s = min(1.0, self._watchdog.limit_s / 4)
        while not finish.wait(turn_s):
            if self._watchdog.stuck:
                self._end_stuck()
            notify("WATCHDOG=1" if self._judge else "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000")

    def _end_stuck(self) -> None:
        """Say why, give the publisher a moment to deliver it, and end without the stuck thread."""
        error = StuckError.after(self._watchdog.limit_s)

        def tell() -> None:
            self._alerts.tell_due(ending=True)
            self._alerts.tell("watchdog", str(error))

        # In a thread of its own: the stuck one may be stuck in the outbox and hold its lock.
        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        telling.join(ALERT_TIMEOUT_S)
        if self._publishing is not None:
            self._publishing.finish(ALERT_TIMEOUT_S)
        os._exit(StuckError.exit_code)

    def _describe(self) -> payload.AgentState:
        """Say how the agent is; for any thread."""
        moment = time.time()
        judge, feed = self._judge, self._feed
        return payload.AgentState(
            agent=self._name,
            state="online",
            reason="running" if judge else "starting",
            time=payload.rfc3339(moment),
            bundle=judge.bundle if judge else None,
            provider=judge.setting.line.session.provider if judge else None,
            counters=self._outbox.counters(now_s=moment)._asdict(),
            sources=feed.states() if feed else None,
            device=self._device(),
        )

    def _tell_state(self) -> payload.AgentState:
        """Say what the retained state says while online."""
        state = self._describe()
        self._observer.state(state)
        return state

    def _living(self) -> Living:
        """Say what the page, Prometheus and the health check may ask."""
        publisher = self._publisher
        return Living(
            describe=self._describe,
            silent_s=lambda: self._watchdog.silent_s,
            unfed_s=lambda: self._feed.unfed_s if self._feed else 0.0,
            broker=lambda: None if publisher.connected else publisher.reason,
            store=self._outbox.check,
            history=lambda: newest_first(Path(self._config.state_dir)),
        )

    def _serve(self, finish: threading.Event) -> None:
        assert self._config.http is not None  # noqa: S101 - for the type checker
        assert self._seeing is not None  # noqa: S101 - for the type checker
        try:
            serve(self._config.http, self._seeing, finish)
        except Exception:
            log.exception("status page ended; frames are judged without it")

    def _source_changed(self, name: str, state: payload.SourceState) -> None:
        self._observer.source(name, state)
        if state.state == "lost" and name not in self._lost:
            self._lost.add(name)
            self._alerts.tell("source", f"{name} is lost: {state.reason}")
        elif state.state == "connected" and name in self._lost:
            self._lost.discard(name)
            self._alerts.tell("source", f"{name} is connected again")


def _undelivered(publisher: Publisher, kept: int, waited_s: float) -> UnreachableError:
    told = "stopped answering" if publisher.answered else "does not answer"
    return UnreachableError(
        f"broker {publisher.address} {told} ({publisher.reason}, waited {waited_s:g} s after the"
        f" last frame); {kept} events are kept in the outbox",
        "they go out with the next run: start the broker or correct the mqtt section",
    )
