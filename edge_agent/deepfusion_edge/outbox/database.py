"""The outbox's SQLite file: opened, checked, counted; a corrupt one is moved aside."""

import contextlib
import fcntl
import os
import secrets
import sqlite3
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge.errors import StorageError

DATABASE = "outbox.sqlite"
CORRUPT = "outbox.corrupt.sqlite"
PAGE_BYTES = 4096
LOG_PAGES = 256
# Of sqlite.org/fileformat2.html#walformat; twice, because the last transaction runs over.
LOG_BYTES = 32 + 2 * LOG_PAGES * (PAGE_BYTES + 24)
_LOCK = "outbox.lock"
_SCHEMA = 1
_SUFFIXES = ("", "-wal", "-shm")
_CORRUPT_SIGNS = (
    "malformed",
    "not a database",
    "no such table",
    "no such column",
    "already exists",
)
_TABLES = """
CREATE TABLE event(id INTEGER PRIMARY KEY AUTOINCREMENT, created_s REAL NOT NULL,
                   channel TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('sent', 0), ('dropped', 0), ('expired', 0);
CREATE TABLE origin(token TEXT NOT NULL);
"""


class Counters(NamedTuple):
    """Events since the database was made, and now.

    Attributes:
        kept: waiting now.
        oldest_age_s: of the oldest one waiting, 0 if none waits.
        disk_full: 1 while the disk has no space, so that each new event pushes out an old one.
    """

    received: int
    sent: int
    dropped: int
    expired: int
    kept: int
    oldest_age_s: float
    disk_full: int


def connect(path: Path) -> sqlite3.Connection:
    """Open, or make, the database and check it.

    Raises:
        StorageError: it is of a newer version.
        sqlite3.Error: it is corrupt (see :func:`is_corrupt`), or the disk refuses.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def own(state: Path) -> int:
    """Lock the folder's outbox for this process and return the lock's file number.

    Raises:
        StorageError: another process has it.
    """
    lock = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StorageError(
            f"another agent runs with state folder {state}", "stop it or give each agent its own"
        ) from error
    return lock


def move_aside(path: Path) -> Path:
    """Keep the newest corrupt database only, so that a failing disk does not fill itself."""
    target = path.with_name(CORRUPT)
    for suffix in _SUFFIXES:
        target.with_name(target.name + suffix).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(target.with_name(target.name + suffix))
    return target


def schema_of(db: sqlite3.Connection, path: Path) -> int:
    """Return the number of the database's schema, 0 before its tables are made.

    Raises:
        StorageError: it is of a newer version.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > _SCHEMA:
        raise StorageError(
            f"{path} has schema {version}, this agent knows {_SCHEMA}",
            "update the agent or move the file away",
        )
    return version


def token_of(db: sqlite3.Connection) -> str:
    """Return what makes this database's names differ from those of any other."""
    row = db.execute("SELECT token FROM origin").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("malformed: the token is missing")
    return str(row[0])


def last_id(db: sqlite3.Connection) -> int:
    """Return the id of the newest event ever put, 0 before the first."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return int(row[0]) if row else 0


def count(db: sqlite3.Connection, now_s: float, *, disk_full: bool) -> Counters:
    """Read the counters; ids count what was put, so what is kept follows from the rest."""
    values = dict(db.execute("SELECT name, value FROM counter"))
    try:
        sent, dropped, expired = (int(values[name]) for name in ("sent", "dropped", "expired"))
    except KeyError as error:
        raise sqlite3.DatabaseError("malformed: a counter is missing") from error
    received = last_id(db)
    kept = received - sent - dropped - expired
    oldest = db.execute("SELECT created_s FROM event ORDER BY id LIMIT 1").fetchone()
    age = max(0.0, now_s - oldest[0]) if oldest else 0.0
    return Counters(received, sent, dropped, expired, kept, age, int(disk_full))


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether a new database is the only way out."""
    return any(sign in str(error) for sign in _CORRUPT_SIGNS)


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk, or the file up to its limit, is full."""
    return "full" in str(error)


def storage_error(path: Path, error: sqlite3.Error) -> StorageError:
    """Translate what SQLite says."""
    remedy = "free some space" if is_full(error) else "check the disk, then start again"
    return StorageError(f"outbox {path}: {error}", remedy)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Set the journal, make the tables of a new database, check those of an old one."""
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    if schema_of(db, path) == 0:
        db.executescript(f"BEGIN IMMEDIATE;{_TABLES}")
        db.execute("INSERT INTO origin VALUES (?)", (secrets.token_hex(4),))
        db.execute(f"PRAGMA user_version = {_SCHEMA}")
        db.execute("COMMIT")
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"malformed: {verdict}")
    db.execute("SELECT id, created_s, channel, body FROM event LIMIT 1").fetchall()
    kept = db.execute("SELECT count(*) FROM event").fetchone()[0]
    if kept != count(db, 0.0, disk_full=False).kept:
        raise sqlite3.DatabaseError("malformed: the counters do not add up")
    token_of(db)
