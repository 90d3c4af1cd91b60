"""What this device knows of commands, on its disk before anything is done about it.

One small file, ``commands.json`` in the state directory: replaced as a whole, so that a power cut
leaves the old content or the new one. It must not be lost: without it old commands that have not
expired could be taken again, so a damaged one switches commands off until a person removes it.
"""

import threading
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from deepfusion_edge.bundle.files import reading, replace_file
from deepfusion_edge.bundle.manifest import MALFORMED, Utc, canonical
from deepfusion_edge.commands.gate import Admitted, Past
from deepfusion_edge.commands.message import Command, name_of
from deepfusion_edge.config import Model
from deepfusion_edge.errors import StorageError

LEDGER = "commands.json"
MAX_RECENT = 64
MAX_PENDING = 8
MAX_LEDGER_BYTES = 2**24

Phase = Literal["waiting", "running", "fetching", "installing", "probation"]
"""Where a command stands; the last three are an installation's."""
Result = dict[str, str | int | float | bool | None]


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command that was accepted and is not done.

    Attributes:
        key: id of the key that signed it.
        digest: SHA-256 (hex) of its message.
        starts: how often this phase was begun; more than one means that a power cut or a crash
            came in between.
        target: the bundle (its folder's name) that becomes current by this command.
    """

    command: Command
    key: str
    digest: str
    phase: Phase = "waiting"
    starts: Annotated[int, Meta(ge=0)] = 0
    target: str | None = None


class Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command that has ended."""

    id: str
    sequence: int
    action: str
    key: str
    digest: str
    state: Literal["done", "failed"]
    time: Utc
    reason: str
    result: Result = {}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What commands chose instead of the configuration; None: as the configuration says."""

    members: Annotated[int, Meta(ge=1, le=64)] | None = None
    policy: bool | None = None

    def apply(self, model: Model) -> Model:
        """Return the configuration's section with the choices in it."""
        if self.members is not None:
            model = replace(model, members=self.members)
        if self.policy is not None:
            model = replace(model, policy=self.policy)
        return model


class Ledger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file.

    Attributes:
        highest: sequence taken by key id.
        vouched: see ``gate``.
        recent: ended commands, the newest last.
    """

    schema: Literal[1] = 1
    highest: dict[str, Annotated[int, Meta(ge=1, le=2**53 - 1)]] = {}
    vouched: Utc | None = None
    settings: Settings = Settings()
    pending: tuple[Pending, ...] = ()
    recent: tuple[Done, ...] = ()


class LedgerFile:
    """The ledger of one state directory; one process, any of its threads.

    Attributes:
        mutex: held while one thread looks and then changes.
    """

    def __init__(self, state: Path) -> None:
        """Read it, or begin an empty one.

        Raises:
            StorageError: it is damaged or cannot be read.
        """
        self.mutex = threading.RLock()
        self._path = state / LEDGER
        self._now = read_ledger(state)

    @property
    def content(self) -> Ledger:
        """What is on the disk."""
        return self._now

    @property
    def past(self) -> Past:
        """What the gate needs to know."""
        now = self._now
        ids = {one.command.id for one in now.pending} | {one.id for one in now.recent}
        return Past(frozenset(ids), now.highest, now.vouched)

    def consume(self, admitted: Admitted, *, keep: bool) -> None:
        """Use up a command's sequence, and keep the command to be done.

        Raises:
            StorageError: it cannot be written; then the command was not taken.
        """
        with self.mutex:
            now, command = self._now, admitted.command
            pending = Pending(command, admitted.key, admitted.digest)
            self._save(
                replace(
                    now,
                    highest={**now.highest, admitted.key: command.sequence},
                    vouched=admitted.vouched,
                    pending=(*now.pending, pending) if keep else now.pending,
                )
            )

    def move(self, name: str, phase: Phase) -> Pending:
        """Write down that the command of that id enters a phase (again), before it does.

        Raises:
            StorageError: it cannot be written; then the phase must not begin.
        """
        with self.mutex:
            old = self.find(name)
            starts = old.starts + 1 if old and old.phase == phase else 1
            return self._replace(name, phase=phase, starts=starts)

    def end(self, done: Done, settings: Settings | None = None) -> None:
        """Write down how a command ended, and what it chose, in one step.

        Raises:
            StorageError: it cannot be written; then it has not ended.
        """
        with self.mutex:
            now = self._now
            self._save(
                replace(
                    now,
                    settings=settings or now.settings,
                    pending=tuple(one for one in now.pending if one.command.id != done.id),
                    recent=(*now.recent, done)[-MAX_RECENT:],
                )
            )

    def aim(self, name: str, target: str) -> None:
        """Write down which bundle a command is about to make current.

        Raises:
            StorageError: it cannot be written; then it must not become current.
        """
        with self.mutex:
            self._replace(name, target=target)

    def find(self, name: str) -> Pending | None:
        """Return the pending command of that id, if it is pending."""
        return next((one for one in self._now.pending if one.command.id == name), None)

    def _replace(self, name: str, **changes: object) -> Pending:
        """Change one pending command; the caller holds the mutex."""
        old = next(one for one in self._now.pending if one.command.id == name)
        new = replace(old, **changes)
        pending = tuple(new if one is old else one for one in self._now.pending)
        self._save(replace(self._now, pending=pending))
        return new

    def _save(self, ledger: Ledger) -> None:
        replace_file(self._path, canonical(ledger))
        self._now = ledger


def ended(
    pending: Pending,
    state: Literal["done", "failed"],
    time: str,
    reason: str = "",
    result: Result | None = None,
) -> Done:
    """Describe how a command ended."""
    command = pending.command
    return Done(
        id=command.id,
        sequence=command.sequence,
        action=name_of(command.action),
        key=pending.key,
        digest=pending.digest,
        state=state,
        time=time,
        reason=reason,
        result=result or {},
    )


def read_ledger(state: Path) -> Ledger:
    """Read the ledger of a state directory, beside a running agent or before it; empty if none is.

    Raises:
        StorageError: it is damaged or cannot be read.
    """
    path = state / LEDGER
    if not path.exists():
        return Ledger()
    with reading(path), path.open("rb") as stream:
        data = stream.read(MAX_LEDGER_BYTES + 1)
    try:
        if len(data) > MAX_LEDGER_BYTES:
            raise msgspec.DecodeError(f"more than {MAX_LEDGER_BYTES} bytes")
        return msgspec.json.decode(data, type=Ledger)
    except MALFORMED as error:
        raise StorageError(
            f"{path} is damaged: {error}",
            "restore it; or remove it once everything signed so far has expired (seven days at"
            " most): without it such a command could be taken again",
        ) from error
