"""May this message command this agent, here and now? Pure: no file, no clock, no network.

Rules, in the order in which they are applied; the name of the first one broken is in the refusal:

1.  ``retained``: the broker kept the message from an earlier time; commands are never retained.
2.  ``untrusted``: too large, not a canonical envelope, not signed by exactly one key, by a key that
    is not on the allow-list, or wrongly. Nothing inside is looked at before.
3.  ``unknown-action``: the payload names an action this agent does not have.
4.  ``malformed``: the payload breaks its schema, or is not in canonical form.
5.  ``wrong-agent``: it is for another agent.
6.  ``unauthorised``: this key is not allowed this action.
7.  ``validity``: it expires before it was issued, or more than seven days after.
8.  ``expired``: its time is over.
9.  ``not-yet-valid``: it was issued more than five minutes from now.
10. ``duplicate``: a command of this id was taken before.
11. ``sequence``: not above the highest that was taken from this key: a replay, or out of order.

Time: ``now`` is the device's clock, ``vouched`` the latest moment at which the clock and a trusted
signer agreed. A clock behind that moment is not set (a Jetson without battery starts in 1970 or at
its last shut-down): then ``vouched`` counts as now, and rule 9 is left out.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple, get_args

from deepfusion_edge.bundle.envelope import PublicKey, unseal
from deepfusion_edge.bundle.manifest import parse_utc
from deepfusion_edge.commands.message import COMMAND, Command, name_of, peek, read_command
from deepfusion_edge.config_commands import ActionName
from deepfusion_edge.errors import TrustError

MAX_VALIDITY = timedelta(days=7)
CLOCK_TOLERANCE = timedelta(minutes=5)

Code = Literal[
    "retained",
    "untrusted",
    "unknown-action",
    "malformed",
    "wrong-agent",
    "unauthorised",
    "validity",
    "expired",
    "not-yet-valid",
    "duplicate",
    "sequence",
    "busy",
    "storage",
]
"""Why a message is refused; ``busy`` and ``storage`` are the desk's."""

ACTION_NAMES: tuple[ActionName, ...] = get_args(ActionName)


@dataclass(frozen=True)
class Holder:
    """A key on the allow-list and what it may ask for."""

    key: PublicKey
    actions: frozenset[str]


class Past(NamedTuple):
    """What the device remembers of earlier commands.

    Attributes:
        ids: of those taken lately.
        highest: sequence taken by key id.
        vouched: see the module's text; None before the first command.
    """

    ids: frozenset[str] = frozenset()
    highest: Mapping[str, int] = {}
    vouched: str | None = None


class Admitted(NamedTuple):
    """A command to be carried out.

    Attributes:
        key: id of the key that signed it.
        digest: SHA-256 (hex) of the message.
        vouched: what ``Past.vouched`` becomes.
    """

    command: Command
    key: str
    digest: str
    vouched: str | None


class Refusal(NamedTuple):
    """Why a message is not a command to this agent.

    Attributes:
        reason: what is wrong, for people.
        id, action, key: None where they are unknown, or nothing vouches for them.
        digest: SHA-256 (hex) of the message.
    """

    code: Code
    reason: str
    digest: str
    id: str | None = None
    action: str | None = None
    key: str | None = None


def admit(
    message: bytes,
    *,
    retained: bool,
    agent: str,
    holders: Mapping[str, Holder],
    past: Past,
    now: str,
) -> Admitted | Refusal:
    """Apply all rules of the module's text.

    Args:
        message: as it arrived.
        retained: the broker's flag.
        agent: ``<base_topic>/<client_id>`` of this one.
        holders: the allow-list by key id.
        past: what was taken before.
        now: UTC, as ``2026-01-31T12:00:00Z``.
    """
    digest = hashlib.sha256(message).hexdigest()
    if retained:
        return Refusal("retained", "a retained message is no command; clear it", digest)
    try:
        payload, names = unseal(message, {name: one.key for name, one in holders.items()}, COMMAND)
    except TrustError as error:
        return Refusal("untrusted", str(error), digest)
    if len(names) != 1:
        return Refusal("untrusted", f"{len(names)} keys signed it, one must", digest)
    (key,) = names
    name, action = peek(payload)

    def refuse(code: Code, reason: str) -> Refusal:
        return Refusal(code, reason, digest, name, action, key)

    if action is not None and action not in ACTION_NAMES:
        return refuse("unknown-action", f"actions are {', '.join(ACTION_NAMES)}")
    try:
        command = read_command(payload)
        broken = _broken(command, key, agent, holders[key].actions)
        clock = parse_utc(now)
        vouched = parse_utc(past.vouched) if past.vouched else clock
        issued, expires = parse_utc(command.issued), parse_utc(command.expires)
    except TrustError as error:
        return refuse("malformed", error.what)
    if broken is not None:
        return refuse(*broken)
    moment, highest = max(clock, vouched), past.highest.get(key, 0)
    rules: tuple[tuple[bool, Code, str], ...] = (
        (
            timedelta(0) < expires - issued <= MAX_VALIDITY,
            "validity",
            f"from {command.issued} to {command.expires}: must be up to {MAX_VALIDITY.days} days",
        ),
        (moment < expires, "expired", f"expired on {command.expires}, it is {moment:%FT%TZ}"),
        (
            clock < vouched or issued <= clock + CLOCK_TOLERANCE,
            "not-yet-valid",
            f"issued on {command.issued}, it is {now} here; set the clock of one of the two",
        ),
        (command.id not in past.ids, "duplicate", f"{command.id} was taken before"),
        (
            command.sequence > highest,
            "sequence",
            f"sequence {command.sequence} is not above {highest}: a replay, or out of order",
        ),
    )
    for holds, code, reason in rules:
        if not holds:
            return refuse(code, reason)
    return Admitted(command, key, digest, past.vouched if clock < vouched else now)


def _broken(
    command: Command, key: str, agent: str, allowed: frozenset[str]
) -> tuple[Code, str] | None:
    if command.agent != agent:
        return "wrong-agent", f"it is for {command.agent!a}, this is {agent!a}"
    action = name_of(command.action)
    if action not in allowed:
        may = ", ".join(sorted(allowed))
        return "unauthorised", f"key {key} may not {action} here, only {may}"
    return None
