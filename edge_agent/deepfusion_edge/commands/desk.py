"""Takes messages, and carries commands out in a thread that it does not start.

A message is judged and, if it is a command, written to the ledger in the publisher's thread: before
the broker gets its confirmation, so that a power cut leaves the message there or the command here.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from deepfusion_edge.bundle.layout import Hook, no_hook
from deepfusion_edge.bundle.manifest import parse_utc
from deepfusion_edge.bundle.trust import read_keys
from deepfusion_edge.commands.context import Context
from deepfusion_edge.commands.gate import Admitted, Code, Holder, Refusal, admit
from deepfusion_edge.commands.incoming import clear
from deepfusion_edge.commands.ledger import MAX_PENDING, LedgerFile, Pending
from deepfusion_edge.commands.machine import Halted, Machine
from deepfusion_edge.commands.message import (
    COMMAND,
    MAX_CHUNK_BYTES,
    Command,
    Install,
    Restart,
    name_of,
)
from deepfusion_edge.commands.quick import perform
from deepfusion_edge.commands.status import STATUS, CommandStatus, ending, progress, refusal, spell
from deepfusion_edge.commands.update import MAX_STARTS, Update
from deepfusion_edge.commands.window import Window
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.errors import DeepFusionError, StorageError
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report.messages import Incoming, Subscription

log = logging.getLogger(__name__)

POLL_S = 0.2
RETRY_S = 10.0
MAX_TOLD, TOLD_EVERY_S = 20, 10.0
"""Refusals told at once, and how often one more: a stranger must not fill the outbox."""


class Desk:
    """The commands of one agent.

    The publisher's thread calls :meth:`take` and :meth:`take_chunk`, another one :meth:`run`.
    """

    def __init__(
        self,
        config: AgentConfig,
        outbox: Outbox,
        machine: Machine,
        window: Window,
        *,
        now: Callable[[], float] = time.time,
        hook: Hook = no_hook,
        probe: bool = True,
    ) -> None:
        """Prepare; nothing is carried out before :meth:`run`.

        Args:
            config: names the keys, and what they may ask for.
            outbox: where statuses go.
            machine: the agent that runs.
            window: hears of its frames.
            now: seconds since 1970.
            hook: called after each step that a power cut may come after.
            probe: only tests leave the golden probe of new bundles out.

        Raises:
            InputError, TrustError: a key file cannot be read, or is no public key.
            StorageError: the ledger is damaged.
        """
        self._outbox, self._now = outbox, now
        self._name = config.mqtt.client_id
        self._address = f"{config.mqtt.base_topic}/{config.mqtt.client_id}"
        self._holders = read_holders(config)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._tokens, self._refilled, self._unsaid = float(MAX_TOLD), time.monotonic(), 0
        self._ledger = LedgerFile(Path(config.state_dir))
        self._found = self._ledger.content
        self._context = Context(
            config, self._ledger, machine, window, self._tell, self._moment, hook
        )
        self._update = Update(self._context, between=self._between, wait=self._pause, probe=probe)

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """What to listen to: commands, longer ones too, to refuse them, and chunks."""
        if not self._holders:
            return ()
        topic = f"{self._address}/command"
        return (
            Subscription(topic, 1, self.take, 2 * COMMAND.max_bytes),
            Subscription(f"{topic}/chunk/+/+", 1, self.take_chunk, MAX_CHUNK_BYTES),
        )

    def take(self, message: Incoming) -> None:
        """Judge a message; write the command down, or tell why it is none."""
        with self._ledger.mutex:  # held to the end: accepted is told before it runs
            answer = self._judge(message)
            if isinstance(answer, Refusal):
                self._tell_refusal(answer)
                return
            self._context.hook("accepted")
            log.info("command %s accepted from key %s", answer.command.id, answer.key)
            self._tell(progress(Pending(answer.command, answer.key, answer.digest)))
        self._wake.set()

    def take_chunk(self, message: Incoming) -> None:
        """Take a chunk of the bundle that is waited for; ``.../command/chunk/<id>/<index>``."""
        name, index = message.topic.split("/")[-2:]
        if index.isascii() and index.isdigit() and len(index) <= 4:  # noqa: PLR2004 - below 2048
            self._update.put(name, int(index), message.payload)
            self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Carry commands out until ``stop`` is set; begin with those a power cut interrupted."""
        self._stop = stop
        recovered = False
        while not stop.is_set():
            try:
                if not recovered:
                    self._recover()
                    recovered = True
                self._turn()
            except Halted:
                log.debug("what was under way was ended, or goes on after the next start")
            except StorageError as error:
                log.error("commands wait: %s", error)  # noqa: TRY400 - a full disk is no defect
                stop.wait(RETRY_S)
            self._pause(POLL_S)

    def _judge(self, message: Incoming) -> Admitted | Refusal:
        answer = admit(
            message.payload,
            retained=message.retained,
            agent=self._address,
            holders=self._holders,
            past=self._ledger.past,
            now=_utc(self._now()),
        )
        if isinstance(answer, Refusal):
            return answer
        command = answer.command
        busy = self._busy(command)
        try:
            # Also one that is refused now is used up: nobody shall send it again later.
            self._ledger.consume(answer, keep=busy is None)
        except StorageError as error:
            busy = ("storage", str(error))
        if busy is None:
            return answer
        return Refusal(*busy, answer.digest, command.id, name_of(command.action), answer.key)

    def _busy(self, command: Command) -> tuple[Code, str] | None:
        pending = self._ledger.content.pending
        if len(pending) >= MAX_PENDING:
            return "busy", f"{len(pending)} commands wait already"
        for one in pending:
            if isinstance(command.action, Install) and isinstance(one.command.action, Install):
                return "busy", f"installation {one.command.id} is under way"
        return None

    def _recover(self) -> None:
        """Tell once more where commands stand: what was told last may have been lost."""
        clear(self._context.state, frozenset(self._installs()))
        for done in self._found.recent[-1:]:
            self._tell(ending(done))
        for pending in self._found.pending:
            if pending.phase == "running" and isinstance(pending.command.action, Restart):
                self._context.end(pending, "done", "the agent was started again")
            else:
                self._tell(progress(pending))

    def _turn(self) -> None:
        self._quick()
        for pending in self._ledger.content.pending:
            if isinstance(pending.command.action, Install):
                with self._survived(partial(self._update.abort, pending)):
                    self._update.advance(pending)

    @contextmanager
    def _survived(self, end: Callable[[str], None]) -> Iterator[None]:
        """End a command that meets a defect of this program: it must not end the agent for ever."""
        try:
            yield
        except (DeepFusionError, Halted):
            raise
        except Exception as error:
            log.exception("a command met a defect")
            end(f"a defect of the agent ({type(error).__name__}); its log says more")

    def _quick(self) -> None:
        for pending in self._ledger.content.pending:
            action = pending.command.action
            restarting = isinstance(action, Restart) and pending.phase == "running"
            if not (isinstance(action, Install) or restarting):
                self._carry_out(pending)

    def _carry_out(self, pending: Pending) -> None:
        context = self._context
        pending = self._ledger.move(pending.command.id, "running")
        context.hook("running")
        self._tell(progress(pending))
        if isinstance(pending.command.action, Restart):
            context.machine.restart(f"command {pending.command.id}")
            return
        if pending.starts > MAX_STARTS:
            context.end(pending, "failed", f"interrupted {MAX_STARTS} times")
            return
        with self._survived(partial(context.end, pending, "failed")):
            try:
                outcome = perform(context, pending, self._abort)
            except DeepFusionError as error:
                context.end(pending, "failed", str(error))
                return
            context.end(pending, "done", outcome.reason, outcome.result, outcome.settings)

    def _abort(self, why: str) -> str | None:
        for pending in self._ledger.content.pending:
            if isinstance(pending.command.action, Install):
                self._update.abort(pending, f"ended by {why}")
                return pending.command.id
        return None

    def _between(self) -> None:
        """Let quick commands through while a transfer is under way."""
        if self._stop.is_set():
            raise Halted
        installs = self._installs()
        self._quick()
        if self._installs() != installs:
            raise Halted

    def _installs(self) -> list[str]:
        pending = self._ledger.content.pending
        return [one.command.id for one in pending if isinstance(one.command.action, Install)]

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stop.is_set() and (left := deadline - time.monotonic()) > 0:
            if self._wake.wait(min(left, POLL_S)):
                self._wake.clear()
                return

    def _moment(self) -> str:
        clock, vouched = _utc(self._now()), self._ledger.content.vouched
        return clock if vouched is None else max(clock, vouched, key=parse_utc)

    def _tell_refusal(self, refused: Refusal) -> None:
        moment = time.monotonic()
        more = (moment - self._refilled) / TOLD_EVERY_S
        self._tokens, self._refilled = min(float(MAX_TOLD), self._tokens + more), moment
        if self._tokens < 1:
            self._unsaid += 1
            return
        self._tokens -= 1
        log.warning("command refused (%s): %s", refused.code, refused.reason)
        unsaid, self._unsaid = self._unsaid, 0
        self._tell(refusal(refused, unsaid))

    def _tell(self, status: CommandStatus) -> None:
        moment = self._now()

        def render(name: str) -> bytes:
            return spell(status, id=f"{self._name}-{name}", agent=self._name, time_s=moment)

        try:
            self._outbox.put(STATUS, render, now_s=moment)
        except StorageError as error:
            log.error("command status is not told: %s", error)  # noqa: TRY400 - as above


def read_holders(config: AgentConfig) -> dict[str, Holder]:
    """Read the allow-list of the configuration by key id; a key named twice may do both.

    Raises:
        InputError, TrustError: a key file cannot be read, or is no public key.
    """
    holders: dict[str, Holder] = {}
    for entry in config.commands.keys:
        for name, key in read_keys([Path(entry.file)]).items():
            before = holders[name].actions if name in holders else frozenset()
            holders[name] = Holder(key, before | frozenset(entry.actions))
    return holders


def _utc(time_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))
