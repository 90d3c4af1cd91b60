"""Which bundles this device had, when, and how that ended: bounded, for people and status pages."""

import logging
from pathlib import Path
from typing import Literal

import msgspec

from deepfusion_edge.bundle.files import replace_file
from deepfusion_edge.bundle.manifest import MALFORMED, Utc, canonical
from deepfusion_edge.errors import StorageError

log = logging.getLogger(__name__)

HISTORY = "history.json"
MAX_ENTRIES = 50
_MAX_BYTES = 2**20

Result = Literal["installed", "on probation", "kept", "rolled back", "refused"]


class Entry(msgspec.Struct, frozen=True):
    """One bundle's arrival, or its return by a roll-back.

    Attributes:
        time: UTC, of the last change of the result.
        id, sequence, digest: of the bundle; None where it was refused before it was known.
        result: ``installed`` by a person at the device, or ``on probation``, then ``kept`` or
            ``rolled back``; ``refused``: it never served.
        reason: for people.
    """

    time: Utc
    id: str | None
    sequence: int | None
    digest: str | None
    result: Result
    reason: str = ""


def read_history(state: Path) -> tuple[Entry, ...]:
    """Return the entries, the newest last; none if there is no file or it is damaged."""
    try:
        with (state / HISTORY).open("rb") as stream:
            data = stream.read(_MAX_BYTES)
        return msgspec.json.decode(data, type=tuple[Entry, ...])
    except (OSError, *MALFORMED):
        return ()


def newest_first(state: Path) -> list[dict[str, object]]:
    """Return the entries as a status page shows them."""
    return [msgspec.structs.asdict(entry) for entry in reversed(read_history(state))]


def note(state: Path, entry: Entry) -> None:
    """Add an entry, or replace the last one if it says where the same bundle stood.

    Nothing depends on the history: where it cannot be written, the log says so.
    """
    entries = list(read_history(state))
    same = entries and entries[-1].digest == entry.digest is not None
    if same and entries[-1].result in {"on probation", entry.result}:
        entries.pop()
    try:
        replace_file(state / HISTORY, canonical([*entries, entry][-MAX_ENTRIES:]))
    except StorageError as error:
        log.warning("bundle history: %s", error)
