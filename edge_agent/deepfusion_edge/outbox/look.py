"""The outbox's counters, read by another process than the one that owns it."""

import contextlib
import sqlite3
from pathlib import Path

from deepfusion_edge.errors import StorageError
from deepfusion_edge.outbox.box import RESERVE
from deepfusion_edge.outbox.database import DATABASE, Counters, count, is_corrupt, schema_of


def read_counters(state: Path, *, now_s: float) -> Counters | None:
    """Read the counters beside a running agent, without owning the outbox.

    Args:
        state: the agent's state folder.
        now_s: seconds since 1970, for the age of the oldest event.

    Returns:
        None if there is no outbox yet: an agent may be about to make it.

    Raises:
        StorageError: it is damaged, of a newer version, or cannot be read.
    """
    path = state / DATABASE
    if not path.is_file():
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        ) as db:
            db.execute("BEGIN")  # one moment for the schema and all counters
            # The tables and the schema's number appear in one transaction.
            if schema_of(db, path) == 0:
                return None
            return count(db, now_s, disk_full=not (state / RESERVE).exists())
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: sqlite3.Error) -> StorageError:
    """Say it in words: what SQLite says helps nobody who only asked for a status."""
    if is_corrupt(error):
        return StorageError(
            f"outbox {path} is damaged", "start the agent: it moves the file aside and says so"
        )
    return StorageError(
        f"outbox {path} cannot be read", "ask as the user that the agent runs as, or check the disk"
    )
