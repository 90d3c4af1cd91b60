"""A command as it is signed: who is asked, for what, and how long that holds. Pure.

The message is a DSSE envelope (``bundle.envelope``) with one Ed25519 signature over the exact bytes
of a :class:`Command` in canonical JSON. Its kind is signed too: a signed manifest is no command.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from deepfusion_edge.bundle.envelope import Kind, PrivateKey, seal
from deepfusion_edge.bundle.manifest import MALFORMED, MAX_BUNDLE_BYTES, Sha256, Utc, canonical
from deepfusion_edge.errors import TrustError

MAX_CHUNKS = 2048
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 2**10, 2**20
MAX_URL = 2000
COMMAND = Kind(
    "application/vnd.deepfusion.command+json", "command", 2**18, "sign the command again"
)
_AGAIN = "sign the command with a matching deepfusion-agent"

CommandId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]


class SetMembers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="set-members"):
    """Run K members a frame, without a policy; None: as the configuration says."""

    members: Annotated[int, Meta(ge=1, le=64)] | None


class SetPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="set-policy"):
    """Let the bundle's adaptive policy choose, or not; None: as the configuration says."""

    policy: bool | None


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="snapshot"):
    """Keep the last frame and its verdict on the device; None: of whichever source was last."""

    source: Annotated[str, Meta(min_length=1, max_length=200)] | None


class Chunks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a bundle comes over MQTT: in pieces of so many bytes, each with its hash."""

    bytes: Annotated[int, Meta(ge=MIN_CHUNK_BYTES, le=MAX_CHUNK_BYTES)]
    sha256: Annotated[tuple[Sha256, ...], Meta(min_length=1, max_length=MAX_CHUNKS)]


class Install(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="install"):
    """Fetch a bundle, from a URL or in chunks, and install it.

    Attributes:
        bytes, sha256: of the whole ``.dfb`` file.
    """

    bytes: Annotated[int, Meta(ge=1, le=MAX_BUNDLE_BYTES)]
    sha256: Sha256
    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL)] | None
    chunks: Chunks | None

    def __post_init__(self) -> None:
        if (self.url is None) == (self.chunks is None):
            raise ValueError("install names a url or chunks, one of them")
        if self.chunks is not None:
            needed = -(-self.bytes // self.chunks.bytes)
            if len(self.chunks.sha256) != needed:
                raise ValueError(
                    f"{self.bytes} bytes in chunks of {self.chunks.bytes} are {needed} chunks,"
                    f" {len(self.chunks.sha256)} are named"
                )


class RollBack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="roll-back"):
    """Return to the bundle before this one; ends an installation that is under way."""


class Restart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="restart"):
    """End the agent in an orderly way, to be started again by its supervisor."""


Action = SetMembers | SetPolicy | Snapshot | Install | RollBack | Restart


def name_of(action: Action) -> str:
    """Return an action's name, such as ``set-members``."""
    return str(action.__struct_config__.tag)


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one key asks of one agent, once.

    Attributes:
        id: names it for ever; also a level of topics and a file name.
        agent: ``<base_topic>/<client_id>`` of the one it is for.
        sequence: grows with every command of the same key to the same agent.
        issued, expires: UTC, RFC 3339 with whole seconds.
    """

    schema: Literal[1]
    id: CommandId
    agent: Annotated[str, Meta(min_length=1, max_length=2000)]
    sequence: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    issued: Utc
    expires: Utc
    action: Action


class _Unread(msgspec.Struct):
    """The part of a payload that tells an unknown action from a malformed one."""

    type: str


class _Outer(msgspec.Struct):
    id: CommandId
    action: _Unread


def sign(command: Command, key: PrivateKey) -> bytes:
    """Spell the message that asks for ``command``."""
    return seal(canonical(command), [key], COMMAND)


def read_command(payload: bytes) -> Command:
    """Read the payload of an envelope whose signature is right.

    Raises:
        TrustError: a field breaks a rule, or it is not spelled canonically.
    """
    try:
        command = msgspec.json.decode(payload, type=Command)
        respelled = canonical(command)
    except MALFORMED as error:
        raise TrustError(f"the command is not valid: {error}", _AGAIN) from error
    if respelled != payload:
        raise TrustError("the command is not in canonical form", _AGAIN)
    return command


def peek(payload: bytes) -> tuple[str | None, str | None]:
    """Return id and action name of a payload that may break any rule; None for both if it does."""
    try:
        outer = msgspec.json.decode(payload, type=_Outer)
    except MALFORMED:
        return None, None
    return outer.id, outer.action.type
