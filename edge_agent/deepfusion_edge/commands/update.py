"""A bundle from afar: fetched, verified, probed, swapped in, watched, and kept or rolled back.

Each phase is in the ledger before it begins; after a power cut the phase begins again and finds
what it had done. The old bundle judges until the new one is loaded beside it, and its files stay
until the new one is kept.
"""

import logging
import time
from collections.abc import Callable

from deepfusion_edge.bundle.history import Entry, note, read_history
from deepfusion_edge.bundle.installed import Installed
from deepfusion_edge.bundle.layout import CURRENT, name_of, read_bundle, read_probation
from deepfusion_edge.bundle.probation import baseline, decide
from deepfusion_edge.bundle.proving import fall_back, keep
from deepfusion_edge.bundle.store import install
from deepfusion_edge.bundle.verify import check_expiry
from deepfusion_edge.commands.context import Context
from deepfusion_edge.commands.fetch import Progress, fetch
from deepfusion_edge.commands.incoming import Incoming, Pieces, clear
from deepfusion_edge.commands.ledger import Pending, Phase, Result
from deepfusion_edge.commands.machine import Halted, Swap
from deepfusion_edge.commands.message import Chunks, Install
from deepfusion_edge.commands.status import progress
from deepfusion_edge.errors import (
    DeepFusionError,
    InputError,
    ModelError,
    StorageError,
    UnreachableError,
    UsageError,
)

log = logging.getLogger(__name__)

MAX_STARTS = 10
_LOOK_S = 0.2
_ROLLED_BACK = "rolled back"


class Update:
    """The installation that is under way, if one is."""

    def __init__(
        self,
        context: Context,
        *,
        between: Callable[[], None],
        wait: Callable[[float], object],
        probe: bool = True,
    ) -> None:
        """Prepare.

        Args:
            context: of the desk.
            between: called often during a transfer; raises Halted when it is to end.
            wait: waits so many seconds or less.
            probe: only tests leave the golden probe out.
        """
        self._context, self._between, self._wait, self._probe = context, between, wait, probe
        self._entered: tuple[str, Phase] | None = None  # what was not begun before this start
        self._judging: str | None = None  # the bundle on probation, once this agent judges by it
        self._pieces: tuple[str, Pieces] | None = None
        self._broken: StorageError | None = None

    def put(self, name: str, index: int, content: bytes) -> None:
        """Take a chunk for the command of that id; called by the publisher's thread."""
        expected = self._pieces
        if expected is None or expected[0] != name:
            log.debug("a chunk of %s is not expected", name)
            return
        try:
            expected[1].put(index, content)
        except StorageError as error:
            self._broken = error  # told by the thread that waits for the chunks

    def advance(self, pending: Pending) -> None:
        """Go on until there is something to wait for, or the command has ended.

        Raises:
            StorageError: the ledger cannot be written; to be tried again.
            Halted: the agent stops, or the command was ended from outside.
        """
        try:
            while pending.phase != "probation":
                pending = self._step(pending)
            self._watch(pending)
        except DeepFusionError as error:
            if pending.phase == "probation" and isinstance(error, StorageError):
                raise  # to be tried again: the bundle is not to blame
            self._fail(pending, str(error))

    def abort(self, pending: Pending, why: str) -> None:
        """End the installation: what it had put into service is taken back.

        Raises:
            StorageError: as for ``advance``.
        """
        if read_probation(self._context.state) is not None:
            self._fall_back(pending, why)
        else:
            self._fail(pending, why)

    def _step(self, pending: Pending) -> Pending:
        if pending.phase == "waiting":
            return self._enter(pending, "fetching")
        if self._entered != (pending.command.id, pending.phase):
            pending = self._context.ledger.move(pending.command.id, pending.phase)
        if pending.starts > MAX_STARTS:
            raise ModelError(
                f"{pending.phase} was interrupted {MAX_STARTS} times", "look at this device"
            )
        if pending.phase == "fetching":
            self._fetch(pending)
            return self._enter(pending, "installing")
        self._install(pending)
        return self._enter(pending, "probation")

    def _enter(self, pending: Pending, phase: Phase) -> Pending:
        entered = self._context.ledger.move(pending.command.id, phase)
        self._entered = (pending.command.id, phase)
        self._context.hook(phase)
        self._context.tell(progress(entered))
        return entered

    def _fetch(self, pending: Pending) -> None:
        rules, action = self._context.config.updates, _install_of(pending)
        file = self._file(pending)
        clear(self._context.state, frozenset({pending.command.id}))
        if file.whole:
            return
        if action.bytes > rules.max_bytes:
            raise UsageError(
                f"a bundle of {action.bytes} bytes, updates.max_bytes is {rules.max_bytes}",
                "raise it there, or export a smaller bundle",
            )
        file.room(rules.min_free_bytes)
        if action.url is not None:
            fetch(action.url, file, rules, Progress(self._between, self._wait))
        elif action.chunks is not None:
            self._gather(pending, file, action.chunks)
        self._context.hook("fetched")

    def _gather(self, pending: Pending, file: Incoming, chunks: Chunks) -> None:
        """Wait for chunks; ask for those that are missing whenever none came for a while."""
        rules, tell = self._context.config.updates, self._context.tell
        pieces, self._broken = Pieces(file, chunks), None
        self._pieces = (pending.command.id, pieces)
        begun = moved = time.monotonic()
        try:
            left = len(chunks.sha256) + 1
            while missing := pieces.missing:
                if self._broken is not None:
                    raise self._broken
                moment = time.monotonic()
                if moment - begun > rules.timeout_s:
                    raise UnreachableError(
                        f"{len(missing)} of {len(chunks.sha256)} chunks did not arrive within"
                        f" updates.timeout_s of {rules.timeout_s:g} s",
                        "send the command again, newly signed",
                    )
                asked = left > len(chunks.sha256) or moment - moved > rules.idle_timeout_s
                if asked:
                    tell(progress(pending, f"{len(missing)} chunks are missing", missing))
                if asked or len(missing) < left:
                    moved = moment
                left = len(missing)
                self._between()
                self._wait(_LOOK_S)
        finally:
            self._pieces = None
            pieces.close()
        if not file.finish():
            raise InputError("the chunks are not the signed file", "sign the command again")

    def _install(self, pending: Pending) -> None:
        context, state = self._context, self._context.state
        if pending.target is not None and name_of(state / CURRENT) == pending.target:
            return  # it was swapped in before the power was cut
        self._check_not_dropped(pending)
        swaps: list[Swap] = []

        def prove(installed: Installed) -> None:
            swaps.append(context.machine.load(installed))
            context.ledger.aim(pending.command.id, installed.directory.name)
            context.hook("aimed")

        install(
            self._file(pending).path,
            state,
            (),
            now=context.moment(),
            probe=self._probe,
            prove=prove,
            probation=baseline(context.window.seen()),
            hook=context.hook,
        )
        try:
            for swap in swaps:
                swap(context.window.begin)
        except ModelError as error:
            self._fall_back(pending, str(error))
            raise Halted from error
        context.hook("swapped")

    def _watch(self, pending: Pending) -> None:
        """Decide on the bundle that is on probation, or find that others have decided."""
        context, state = self._context, self._context.state
        record = read_probation(state)
        if record is None:
            current = name_of(state / CURRENT)
            if current == pending.target:
                self._done(pending, "kept")
                return
            if self._judging == pending.target and current is not None:
                self._swap_back(context.machine.load(read_bundle(state, current)))
            self._check_not_dropped(pending)
            self._fail(pending, "another bundle was installed by hand meanwhile")
            return
        self._judging = pending.target
        decision = decide(context.config.updates.probation, record.baseline, context.window.seen())
        if decision.what == "keep":
            keep(state, now=context.moment(), why=decision.why, hook=context.hook)
            self._done(pending, decision.why)
        elif decision.what == "drop":
            self._fall_back(pending, decision.why)

    def _fall_back(self, pending: Pending, why: str) -> None:
        context, state = self._context, self._context.state
        record = read_probation(state)
        if record is None:
            return
        try:
            old = read_bundle(state, record.fallback)
            check_expiry(old.manifest, context.moment())
            swap = context.machine.load(old)
        except DeepFusionError as error:
            stays = f"{why}; it stays, because the bundle before cannot be used: {error.what}"
            keep(state, now=context.moment(), why=stays, hook=context.hook)
            self._fail(pending, stays)
            return
        fall_back(state, now=context.moment(), why=why, hook=context.hook)
        self._swap_back(swap)
        self._fail(pending, f"{_ROLLED_BACK}: {why}")

    def _swap_back(self, swap: Swap) -> None:
        try:
            swap(self._context.window.begin)
        except ModelError as error:
            self._context.machine.restart(f"the bundle before does not run: {error.what}")

    def _check_not_dropped(self, pending: Pending) -> None:
        """Find out whether a start of the agent has rolled this bundle back."""
        for entry in reversed(read_history(self._context.state)):
            if pending.target and (entry.digest or "").startswith(pending.target):
                if entry.result == "rolled back":
                    raise ModelError(f"{_ROLLED_BACK}: {entry.reason}", "look at the bundle")
                return

    def _done(self, pending: Pending, reason: str) -> None:
        installed = read_bundle(self._context.state, str(pending.target))
        manifest = installed.manifest
        result: Result = {
            "bundle": manifest.id,
            "bundle_sequence": manifest.sequence,
            "digest": installed.bundle_hash,
        }
        self._context.end(pending, "done", reason, result)
        clear(self._context.state)

    def _fail(self, pending: Pending, reason: str) -> None:
        context = self._context
        if not reason.startswith(_ROLLED_BACK):
            note(context.state, Entry(context.moment(), None, None, None, "refused", reason))
        context.end(pending, "failed", reason)
        clear(context.state)

    def _file(self, pending: Pending) -> Incoming:
        action = _install_of(pending)
        return Incoming(self._context.state, pending.command.id, action.bytes, action.sha256)


def _install_of(pending: Pending) -> Install:
    action = pending.command.action
    assert isinstance(action, Install)  # noqa: S101 - the desk sends nothing else here
    return action
