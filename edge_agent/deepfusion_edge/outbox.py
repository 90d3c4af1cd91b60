"""Bounded store-and-forward: what is put here survives a crash until the broker confirms it.

SQLite in WAL mode, ``synchronous=NORMAL``: a killed process loses nothing, a power cut at most the
last moments, neither damages the file. When a limit is reached the *oldest* events are dropped and
counted. One process at a time owns an outbox; its methods may be called from several threads.
"""

import contextlib
import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge.errors import StorageError

DATABASE = "outbox.sqlite"
CORRUPT = "outbox.corrupt.sqlite"
_LOCK = "outbox.lock"
_SCHEMA = 1
_PAGE_BYTES = 4096
_LOG_PAGES = 256
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
INSERT INTO counter VALUES ('received', 0), ('sent', 0), ('dropped', 0), ('expired', 0);
CREATE TABLE origin(token TEXT NOT NULL);
"""


class Event(NamedTuple):
    """One stored event.

    Attributes:
        id: grows by one with every event ever put into this database.
        channel: end of its topic, after ``<base>/<agent>/``.
        body: what is published.
    """

    id: int
    channel: str
    body: bytes


class Counters(NamedTuple):
    """Events since the database was made, and now.

    Attributes:
        kept: waiting now.
        oldest_age_s: of the oldest one waiting, 0 if none waits.
    """

    received: int
    sent: int
    dropped: int
    expired: int
    kept: int
    oldest_age_s: float


class Outbox:
    """An open outbox.

    Attributes:
        moved_aside: where a corrupt database was moved to when this one was opened, or None.
    """

    def __init__(
        self, state: Path, *, max_events: int, max_bytes: int, ttl_s: float | None
    ) -> None:
        """Open, or create, the outbox in folder ``state``.

        Raises:
            StorageError: another process owns it, it is of a newer version, or the disk refuses.
        """
        self.moved_aside: Path | None = None
        self._path = state / DATABASE
        self._max_events, self._max_bytes, self._ttl_s = max_events, max_bytes, ttl_s
        self._mutex = threading.RLock()
        self._lock = _own(state)
        try:
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                self.moved_aside = _move_aside(self._path)
                self._db = self._open()
            self._kept = _counters(self._db, 0.0).kept
            self._token = _token(self._db)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise _storage_error(self._path, error) from error
        except BaseException:
            os.close(self._lock)
            raise

    def put(self, channel: str, render: Callable[[str], bytes], *, now_s: float) -> str:
        """Store one event and return its name, unique over restarts and lost databases.

        Args:
            channel: end of its topic.
            render: called with the event's name, gives what is published.
            now_s: seconds since 1970, for the time to live.

        Raises:
            StorageError: the disk is full, or not even an empty outbox can hold the event.
        """
        with self._mutex:
            name = self._try_put(channel, render, now_s)
            while name is None:
                self._make_room()
                name = self._try_put(channel, render, now_s)
            return name

    def peek(self, batch: int, *, after: int = 0) -> list[Event]:
        """Return up to ``batch`` of the oldest events with an id above ``after``."""
        with self._mutex, self._translated():
            rows = self._db.execute(
                "SELECT id, channel, body FROM event WHERE id > ? ORDER BY id LIMIT ?",
                (after, batch),
            )
            return [Event(*row) for row in rows]

    def ack(self, ids: Sequence[int]) -> None:
        """Forget events that the broker confirmed; unknown ids (dropped meanwhile) are ignored."""
        with self._mutex, self._translated():
            with self._transaction():
                gone = sum(
                    self._db.execute("DELETE FROM event WHERE id = ?", (i,)).rowcount for i in ids
                )
                self._count("sent", gone)
            self._kept -= gone

    def expire(self, *, now_s: float) -> int:
        """Drop events older than the time to live and return how many they were."""
        if self._ttl_s is None:
            return 0
        with self._mutex, self._translated():
            with self._transaction():
                gone: int = self._db.execute(
                    "DELETE FROM event WHERE created_s < ?", (now_s - self._ttl_s,)
                ).rowcount
                self._count("expired", gone)
            self._kept -= gone
            return gone

    def check(self) -> None:
        """Write to the disk without changing anything.

        Raises:
            StorageError: no event could be stored now.
        """
        with self._mutex, self._translated(), self._transaction():
            self._db.execute("UPDATE counter SET value = value WHERE name = 'received'")

    def counters(self, *, now_s: float) -> Counters:
        """Return the counters as of ``now_s``."""
        with self._mutex, self._translated():
            return _counters(self._db, now_s)

    @property
    def kept(self) -> int:
        """How many events wait."""
        return self._kept

    def close(self) -> None:
        """Close the database and let another process have it; closing twice does nothing."""
        with self._mutex:
            if self._lock >= 0:
                self._db.close()
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> "Outbox":  # noqa: PYI034 - Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            _prepare(db, self._path)
            pages = max(self._max_bytes // _PAGE_BYTES, 1)
            db.execute(f"PRAGMA max_page_count = {pages}")
        except BaseException:
            db.close()
            raise
        return db

    def _try_put(self, channel: str, render: Callable[[str], bytes], now_s: float) -> str | None:
        try:
            with self._transaction():
                overflow = self._kept + 1 - self._max_events
                gone = self._drop(overflow) if overflow > 0 else 0
                name = self._insert(channel, render, now_s)
        except sqlite3.Error as error:
            if _is_full(error) and self._kept:
                return None
            raise _storage_error(self._path, error) from error
        self._kept += 1 - gone
        return name

    def _insert(self, channel: str, render: Callable[[str], bytes], now_s: float) -> str:
        last = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
        event_id = 1 + (int(last[0]) if last else 0)
        name = f"{self._token}-{event_id}"
        self._db.execute(
            "INSERT INTO event VALUES (?, ?, ?, ?)", (event_id, now_s, channel, render(name))
        )
        self._count("received", 1)
        return name

    def _drop(self, count: int) -> int:
        gone: int = self._db.execute(
            "DELETE FROM event WHERE id IN (SELECT id FROM event ORDER BY id LIMIT ?)", (count,)
        ).rowcount
        self._count("dropped", gone)
        return gone

    def _make_room(self) -> None:
        with self._translated():
            with self._transaction():
                gone = self._drop(max(1, self._kept // 20))
            self._kept -= gone

    def _count(self, name: str, more: int) -> None:
        if more:
            self._db.execute("UPDATE counter SET value = value + ? WHERE name = ?", (more, name))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite itself rolls back when the disk is full
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _storage_error(self._path, error) from error


def read_counters(state: Path, *, now_s: float) -> Counters | None:
    """Read the counters beside a running agent, without owning the outbox; None if there is none.

    Raises:
        StorageError: the database is corrupt or cannot be read.
    """
    path = state / DATABASE
    if not path.is_file():
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        ) as db:
            return _counters(db, now_s)
    except sqlite3.Error as error:
        raise _storage_error(path, error) from error


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Set the journal, make the tables of a new database, check those of an old one."""
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    db.execute(f"PRAGMA journal_size_limit = {_LOG_PAGES * _PAGE_BYTES}")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > _SCHEMA:
        raise StorageError(
            f"{path} has schema {version}, this agent knows {_SCHEMA}",
            "update the agent or move the file away",
        )
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE;{_TABLES}")
        db.execute("INSERT INTO origin VALUES (?)", (secrets.token_hex(4),))
        db.execute(f"PRAGMA user_version = {_SCHEMA}")
        db.execute("COMMIT")
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"malformed: {verdict}")
    db.execute("SELECT id, created_s, channel, body FROM event LIMIT 1").fetchall()
    _counters(db, 0.0)
    _token(db)


def _token(db: sqlite3.Connection) -> str:
    row = db.execute("SELECT token FROM origin").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("malformed: the token is missing")
    return str(row[0])


def _counters(db: sqlite3.Connection, now_s: float) -> Counters:
    values = dict(db.execute("SELECT name, value FROM counter"))
    try:
        received, sent, dropped, expired = (
            int(values[n]) for n in ("received", "sent", "dropped", "expired")
        )
    except KeyError as error:
        raise sqlite3.DatabaseError("malformed: a counter is missing") from error
    kept = int(db.execute("SELECT count(*) FROM event").fetchone()[0])
    oldest = db.execute("SELECT created_s FROM event ORDER BY id LIMIT 1").fetchone()
    age = max(0.0, now_s - oldest[0]) if oldest else 0.0
    return Counters(received, sent, dropped, expired, kept, age)


def _own(state: Path) -> int:
    lock = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StorageError(
            f"another agent runs with state folder {state}", "stop it or give each agent its own"
        ) from error
    return lock


def _move_aside(path: Path) -> Path:
    """Keep the newest corrupt database only, so that a failing disk does not fill itself."""
    target = path.with_name(CORRUPT)
    for suffix in _SUFFIXES:
        target.with_name(target.name + suffix).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(target.with_name(target.name + suffix))
    return target


def _is_corrupt(error: sqlite3.Error) -> bool:
    return any(sign in str(error) for sign in _CORRUPT_SIGNS)


def _is_full(error: sqlite3.Error) -> bool:
    return "full" in str(error)


def _storage_error(path: Path, error: sqlite3.Error) -> StorageError:
    remedy = "free some space" if _is_full(error) else "check the disk, then start again"
    return StorageError(f"outbox {path}: {error}", remedy)
