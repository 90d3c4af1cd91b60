"""What became of a command, as JSON on the topic ``<base>/<agent>/command/status``. Pure."""

from typing import Literal

import msgspec
from msgspec.structs import replace

from deepfusion_edge.commands.gate import Code, Refusal
from deepfusion_edge.commands.ledger import Done, Pending, Phase, Result
from deepfusion_edge.commands.message import name_of
from deepfusion_edge.console import one_line
from deepfusion_edge.report.payload import MAX_REASON, rfc3339

STATUS = "command/status"
MAX_MISSING = 256


class CommandStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one command; the same step may be told again after a power cut.

    Attributes:
        id: of this event; unique over agents and restarts.
        command: id of the command; None where nothing vouches for the message.
        digest: SHA-256 (hex) of the message: its sender knows it by that.
        key: id of the key that signed it.
        state: ``accepted``, ``running``, then ``done`` or ``failed``; or ``refused``.
        phase: of an installation that runs: ``fetching``, ``installing``, ``probation``.
        code: why it was refused, for machines.
        reason: for people.
        result: what the action gave.
        missing: chunks that are asked for again, up to 256 of them.
    """

    schema: Literal[1] = 1
    id: str = ""
    agent: str = ""
    time: str = ""
    command: str | None
    digest: str
    action: str | None
    key: str | None
    state: Literal["accepted", "running", "done", "failed", "refused"]
    phase: Phase | None = None
    code: Code | None = None
    reason: str = ""
    result: Result = {}
    missing: tuple[int, ...] = ()


def progress(pending: Pending, reason: str = "", missing: tuple[int, ...] = ()) -> CommandStatus:
    """Say that a command was accepted, or where it stands."""
    return CommandStatus(
        command=pending.command.id,
        digest=pending.digest,
        action=name_of(pending.command.action),
        key=pending.key,
        state="accepted" if pending.phase == "waiting" else "running",
        phase=None if pending.phase in {"waiting", "running"} else pending.phase,
        reason=reason,
        missing=missing[:MAX_MISSING],
    )


def ending(done: Done) -> CommandStatus:
    """Say how a command ended."""
    return CommandStatus(
        command=done.id,
        digest=done.digest,
        action=done.action,
        key=done.key,
        state=done.state,
        reason=done.reason,
        result=done.result,
    )


def refusal(refused: Refusal, unsaid: int = 0) -> CommandStatus:
    """Say why a message was refused, and how many refusals before were not told one by one."""
    before = f"({unsaid} refusals before were not told) " if unsaid else ""
    return CommandStatus(
        command=refused.id,
        digest=refused.digest,
        action=refused.action,
        key=refused.key,
        state="refused",
        code=refused.code,
        reason=before + refused.reason,
    )


def spell(status: CommandStatus, *, id: str, agent: str, time_s: float) -> bytes:  # noqa: A002
    """Spell a status as JSON, its reason on one line of at most 500 characters."""
    reason = one_line(status.reason)[:MAX_REASON]
    return msgspec.json.encode(
        replace(status, id=id, agent=agent, time=rfc3339(time_s), reason=reason)
    )
