"""Commands that end at once: members, policy, snapshot, roll-back, restart."""

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from deepfusion_edge.bundle.layout import CURRENT, name_of
from deepfusion_edge.bundle.store import read_previous, roll_back
from deepfusion_edge.bundle.verify import check_expiry
from deepfusion_edge.commands.context import Context
from deepfusion_edge.commands.ledger import Pending, Result, Settings
from deepfusion_edge.commands.message import RollBack, SetMembers, SetPolicy, Snapshot
from deepfusion_edge.commands.snapshot import keep_snapshot
from deepfusion_edge.errors import ModelError


class Outcome(NamedTuple):
    """What a command gave: words, figures, and what it chose for good."""

    reason: str
    result: Result | None = None
    settings: Settings | None = None


def perform(context: Context, pending: Pending, abort: Callable[[str], str | None]) -> Outcome:
    """Do what a command asks for. Doing it twice, after a power cut, is doing it once.

    Args:
        context: of the desk.
        pending: neither an installation nor a restart.
        abort: ends the installation that is under way and returns its command's id, if one is.

    Raises:
        DeepFusionError: why it cannot be done; nothing was changed.
        Halted: the agent stops.
    """
    action = pending.command.action
    if isinstance(action, Snapshot):
        judged = context.window.last(action.source)
        kept = keep_snapshot(context.config.commands, pending.command.id, judged)
        return Outcome("kept on the device", kept)
    if isinstance(action, RollBack):
        return _roll_back(context, pending, abort)
    settings = context.ledger.content.settings
    if isinstance(action, SetMembers):
        settings = replace(settings, members=action.members)
    elif isinstance(action, SetPolicy):
        settings = replace(settings, policy=action.policy)
    model = settings.apply(context.config.model)
    context.machine.choose(model)
    return Outcome(
        "from the next frame on, and after a restart",
        {"members": model.members, "policy": model.policy},
        settings,
    )


def _roll_back(context: Context, pending: Pending, abort: Callable[[str], str | None]) -> Outcome:
    command, state = pending.command.id, context.state
    current = name_of(state / CURRENT)
    if pending.target is not None and current == pending.target:
        return Outcome("done before the agent was interrupted", {"bundle": pending.target})
    ended = abort(f"roll-back {command}")
    if ended is not None:
        return Outcome(f"installation {ended} was ended", {"bundle": name_of(state / CURRENT)})
    previous = read_previous(state)
    check_expiry(previous.manifest, context.moment())
    swap = context.machine.load(previous)
    context.ledger.aim(command, previous.directory.name)
    context.hook("aimed")
    why = f"by command {command}"
    roll_back(state, now=context.moment(), why=why)
    context.hook("rolled-back")
    try:
        swap(context.window.begin)
    except ModelError:
        roll_back(state, now=context.moment(), why=f"{why}, and forth")
        raise
    return Outcome("rolled back", {"bundle": previous.directory.name})
