"""The side of the person who commands: a command is written down, signed, and cut into messages."""

import base64
import hashlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from deepfusion_edge.bundle.envelope import Envelope, PrivateKey, key_id, unseal
from deepfusion_edge.bundle.files import reading
from deepfusion_edge.bundle.manifest import MALFORMED, MAX_BUNDLE_BYTES
from deepfusion_edge.commands.fetch import check_url
from deepfusion_edge.commands.gate import CLOCK_TOLERANCE, MAX_VALIDITY
from deepfusion_edge.commands.message import (
    COMMAND,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MIN_CHUNK_BYTES,
    Action,
    Chunks,
    Command,
    Install,
    name_of,
    read_command,
    sign,
)
from deepfusion_edge.config_commands import Updates
from deepfusion_edge.errors import InputError, TrustError, UsageError
from deepfusion_edge.topics import check_topic

CHUNK_BYTES = 2**17
_BLOCK = 2**20


class Signed(NamedTuple):
    """A command and the message that asks for it."""

    command: Command
    message: bytes

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the message: statuses carry it."""
        return hashlib.sha256(self.message).hexdigest()


def make(
    action: Action,
    agent: str,
    key: PrivateKey,
    *,
    now_s: float,
    valid_s: float,
    name: str | None = None,
    sequence: int | None = None,
) -> Signed:
    """Sign a command.

    Args:
        action: what is asked.
        agent: ``<base_topic>/<client_id>``.
        key: on the device's allow-list.
        now_s: seconds since 1970.
        valid_s: how long it may be taken, up to seven days.
        name: its id; None makes one that nobody else makes.
        sequence: None takes the milliseconds since 1970, which grow by themselves.

    Raises:
        UsageError: a name, a number or a time breaks a rule.
    """
    check_topic("--agent", agent)
    if not 1 <= valid_s <= MAX_VALIDITY.total_seconds():
        raise UsageError(
            f"--valid-s {valid_s:g} is not between 1 and {MAX_VALIDITY.total_seconds():.0f}",
            "a command holds for seven days at most",
        )
    command = Command(
        schema=1,
        id=name
        or f"{name_of(action)}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now_s))}"
        f"-{secrets.token_hex(3)}",
        agent=agent,
        sequence=sequence or int(now_s * 1000),
        issued=_utc(now_s),
        expires=_utc(now_s + valid_s),
        action=action,
    )
    message = sign(command, key)
    try:
        # What the device refuses is refused here, with the device's own eyes.
        public = key.public_key()
        read_command(unseal(message, {key_id(public): public}, COMMAND)[0])
    except TrustError as error:
        raise UsageError(error.what, "correct the options") from error
    return Signed(command, message)


def install_action(bundle: Path, url: str | None, chunk_bytes: int = CHUNK_BYTES) -> Install:
    """Describe the installation of a ``.dfb`` file, by URL or, without one, in chunks.

    Raises:
        InputError: the file cannot be read, or is larger than a bundle may be.
        UsageError: no URL of https (or http), or too many chunks.
    """
    whole, parts, size = hashlib.sha256(), [], 0
    if not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES:
        raise UsageError(
            f"--chunk-bytes {chunk_bytes} is not between {MIN_CHUNK_BYTES} and {MAX_CHUNK_BYTES}",
            f"leave it out: {CHUNK_BYTES}",
        )
    for chunk in chunks_of(bundle, chunk_bytes):
        whole.update(chunk)
        size += len(chunk)
        if url is None:
            parts.append(hashlib.sha256(chunk).hexdigest())
    if not 1 <= size <= MAX_BUNDLE_BYTES:
        raise InputError(f"{bundle} has {size} bytes", "give a .dfb file")
    if url is not None:
        if not url.startswith("http://"):  # of which hosts, the device knows
            check_url(url, Updates())
        return Install(size, whole.hexdigest(), url, None)
    if len(parts) > MAX_CHUNKS:
        raise UsageError(
            f"{bundle} would be {len(parts)} chunks, at most {MAX_CHUNKS}",
            "use a larger --chunk-bytes, or a --url",
        )
    return Install(size, whole.hexdigest(), None, Chunks(chunk_bytes, tuple(parts)))


def chunks_of(path: Path, size: int) -> Iterator[bytes]:
    """Read a file in chunks of ``size`` bytes.

    Raises:
        InputError: it cannot be read.
    """
    with reading(path), path.open("rb") as stream:
        while chunk := stream.read(size):
            yield chunk


def read_signed(path: Path) -> Signed:
    """Read a file that ``deepfusion-agent sign`` wrote; the device checks the signature, not we.

    Raises:
        InputError: it cannot be read, or is no command.
    """
    with reading(path), path.open("rb") as stream:
        message = stream.read(COMMAND.max_bytes + 1)
    remedy = "give the file that 'deepfusion-agent sign' wrote"
    try:
        envelope = msgspec.json.decode(message, type=Envelope)
        payload = base64.b64decode(envelope.payload, validate=True)
        return Signed(read_command(payload), message)
    except (*MALFORMED, TrustError, ValueError) as error:
        raise InputError(f"{path} is no signed command: {error}", remedy) from error


def warnings_of(signed: Signed, now_s: float) -> list[str]:
    """Say why devices would refuse a command by its time."""
    issued, expires = signed.command.issued, signed.command.expires
    found = []
    if _utc(now_s) >= expires:
        found.append(f"it expired on {expires}: sign it again")
    if _utc(now_s + CLOCK_TOLERANCE.total_seconds()) < issued:
        found.append(f"it was issued on {issued}, which is in the future here")
    return found


def _utc(time_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))
