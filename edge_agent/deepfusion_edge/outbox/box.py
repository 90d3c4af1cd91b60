"""The outbox itself: put, peek, acknowledge, expire.

SQLite in WAL mode, ``synchronous=NORMAL``: a killed process loses nothing, a power cut at most the
last moments, neither damages the file. When a limit is reached, or the disk is full, the *oldest*
events are dropped and counted. One process at a time owns an outbox; its methods may be called from
several threads.

On a full disk even a DELETE needs space in the log. So the log has its blocks from the beginning,
and a reserve of the same size lets the last checkpoint grow the file; then the file's size is
capped, and events take the place of events, until the disk can hold the reserve again.
"""

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge.console import error_from_os
from deepfusion_edge.outbox.database import (
    DATABASE,
    LOG_BYTES,
    PAGE_BYTES,
    Counters,
    connect,
    count,
    is_corrupt,
    is_full,
    last_id,
    move_aside,
    own,
    storage_error,
    token_of,
)
from deepfusion_edge.outbox.reserve import FULL, Reserve, fill

log = logging.getLogger(__name__)

RESERVE = "outbox.reserve"
_DROP_AT_MOST = 100
_MANY = 1000  # a larger transaction may not fit into the log that a full disk leaves us
_NEARLY_NOTHING = 2**16


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


class Outbox:
    """An open outbox.

    Attributes:
        moved_aside: where a corrupt database was moved to when this one was opened, or None.
        disk_full: whether the disk has no space, so that each new event pushes out an old one.
        on_put: called after every put, in its thread; must not block.
    """

    def __init__(
        self, state: Path, *, max_events: int, max_bytes: int, ttl_s: float | None
    ) -> None:
        """Open, or create, the outbox in folder ``state``.

        Raises:
            StorageError: another process owns it, it is of a newer version, or the disk refuses.
        """
        self.moved_aside: Path | None = None
        self.disk_full = False
        self.on_put: Callable[[], None] = lambda: None
        self._path = state / DATABASE
        self._max_events, self._max_bytes, self._ttl_s = max_events, max_bytes, ttl_s
        self._mutex = threading.RLock()
        self._reserve = Reserve(state / RESERVE, LOG_BYTES)
        self._lock = own(state)
        try:
            self._db = self._open()
            self._secure_space()
            kept = self._db.execute("SELECT count(*) FROM event").fetchone()
            self._kept, self._last = int(kept[0]), last_id(self._db)
            self._first, self._token = self._last, token_of(self._db)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise storage_error(self._path, error) from error
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
            StorageError: the disk refuses, or not even an empty outbox can hold the event.
        """
        with self._mutex:
            name = f"{self._token}-{self._last + 1}"
            row = (self._last + 1, now_s, channel, render(name))
            if self._kept >= self._max_events:
                self._drop(self._kept + 1 - self._max_events)
            while True:
                try:
                    self._db.execute("INSERT INTO event VALUES (?, ?, ?, ?)", row)
                    break
                except sqlite3.Error as error:
                    self._make_room(error)
            self._last += 1
            self._kept += 1
        self.on_put()
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
        with self._mutex:
            self._remove("sent", "DELETE FROM event WHERE id = ?", [(i,) for i in ids])

    def expire(self, *, now_s: float) -> int:
        """Drop events older than the time to live and return how many they were.

        Call it from time to time: it also notices that a full disk has space again.
        """
        with self._mutex:
            self._leave_full()
            if self._ttl_s is None:
                return 0
            with self._translated():
                fresh = self._db.execute(
                    "SELECT id FROM event WHERE created_s >= ? ORDER BY id LIMIT 1",
                    (now_s - self._ttl_s,),
                ).fetchone()
            return self._remove_oldest("expired", below=fresh[0] if fresh else self._last + 1)

    def move_clock(self, by_s: float) -> None:
        """Correct the age of what this process put: the clock was set, forwards or backwards.

        A device without a battery-backed clock starts in the past; its first events must not
        exceed their time to live at the moment when the network tells the time.
        """
        with self._mutex:
            for first in range(self._first + 1, self._last + 1, _MANY):
                self._move_clock(by_s, first, min(self._last, first + _MANY - 1))

    def _move_clock(self, by_s: float, first: int, last: int) -> None:
        def work() -> int:
            return self._db.execute(
                "UPDATE event SET created_s = created_s + ? WHERE id BETWEEN ? AND ?",
                (by_s, first, last),
            ).rowcount

        self._write(work)

    def turn(self, name: str, values: int) -> int:
        """Return the next number of a series from 0 to ``values - 1`` that goes round for ever.

        Its place is kept over restarts.
        """
        with self._mutex:

            def work() -> int:
                self._db.execute("INSERT OR IGNORE INTO counter VALUES (?, -1)", (name,))
                self._db.execute(
                    "UPDATE counter SET value = (value + 1) % ? WHERE name = ?", (values, name)
                )
                row = self._db.execute("SELECT value FROM counter WHERE name = ?", (name,))
                return int(row.fetchone()[0])

            return self._write(work)

    def check(self) -> None:
        """Write to the disk without changing anything.

        Raises:
            StorageError: no event could be stored now.
        """
        with self._mutex:
            self._write(self._touch)

    def counters(self, *, now_s: float) -> Counters:
        """Return the counters as of ``now_s``."""
        with self._mutex, self._translated():
            return count(self._db, now_s, disk_full=self.disk_full)

    @property
    def last(self) -> int:
        """Id of the newest event ever put, 0 before the first."""
        return self._last

    @property
    def kept(self) -> int:
        """How many events wait."""
        return self._kept

    def close(self) -> None:
        """Close the database and let another process have it; closing twice does nothing."""
        with self._mutex:
            if self._lock >= 0:
                self._db.close()
                with contextlib.suppress(OSError):
                    self._reserve.take()  # the log is gone: its space opens the outbox next time
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> "Outbox":  # noqa: PYI034 - Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return connect(self._path)
        except sqlite3.Error as error:
            if is_corrupt(error):
                self.moved_aside = move_aside(self._path)
            elif self._no_space():
                self._reserve.give()
            else:
                raise
        return connect(self._path)

    def _secure_space(self) -> None:
        """Own the log's blocks, and hold the reserve if the disk has it."""
        self._limit(self._max_bytes // PAGE_BYTES)
        try:
            if not self._reserve.take():
                self._live_with_a_full_disk()
            self._fill_log()
        except OSError as error:
            if error.errno not in FULL:
                raise error_from_os(error) from error

    def _fill_log(self) -> None:
        # SQLite ignores what follows the last valid frame: zeros are as good as old frames.
        fill(self._path.with_name(self._path.name + "-wal"), LOG_BYTES)

    def _limit(self, pages: int) -> None:
        self._db.execute(f"PRAGMA max_page_count = {max(pages, 1)}")

    def _no_space(self) -> bool:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize < _NEARLY_NOTHING

    def _make_room(self, error: sqlite3.Error) -> None:
        """Find space for what was refused with ``error``, or raise."""
        if self._enter_full():
            return
        if not self._kept or not (is_full(error) or self._no_space()):
            raise storage_error(self._path, error) from error
        self._drop(min(_DROP_AT_MOST, max(1, self._kept // 20)))

    def _enter_full(self) -> bool:
        """If the disk just became full, arrange with the space we own, and say so."""
        if self.disk_full or not self._no_space():
            return False
        self._live_with_a_full_disk()
        return True

    def _live_with_a_full_disk(self) -> None:
        self.disk_full = True
        log.warning("outbox %s: the disk is full; new events push out old ones", self._path)
        self._reserve.give()
        with contextlib.suppress(OSError, sqlite3.Error):
            self._fill_log()
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._limit(int(self._db.execute("PRAGMA page_count").fetchone()[0]))

    def _leave_full(self) -> None:
        if self._reserve.held and not self.disk_full:
            return
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < 2 * LOG_BYTES or not self._reserve.take():
            return
        if self.disk_full:
            self.disk_full = False
            log.info("outbox %s: the disk has space again", self._path)
            self._limit(self._max_bytes // PAGE_BYTES)

    def _drop(self, number: int) -> None:
        oldest = self._db.execute("SELECT id FROM event ORDER BY id LIMIT 1 OFFSET ?", (number,))
        first_kept = oldest.fetchone()
        self._remove_oldest("dropped", below=first_kept[0] if first_kept else self._last + 1)

    def _remove_oldest(self, counter: str, *, below: int) -> int:
        """Delete the events with ids under ``below``, in transactions that fit into the log."""
        gone = 0
        while True:
            more = self._remove(
                counter,
                "DELETE FROM event WHERE id IN"
                " (SELECT id FROM event WHERE id < ? ORDER BY id LIMIT ?)",
                [(below, _MANY)],
            )
            gone += more
            if more < _MANY:
                return gone

    def _remove(self, counter: str, statement: str, rows: Sequence[tuple[object, ...]]) -> int:
        """Delete events and count them, in one transaction."""

        def remove() -> int:
            gone = self._db.executemany(statement, rows).rowcount
            if gone > 0:
                self._db.execute(
                    "UPDATE counter SET value = value + ? WHERE name = ?", (gone, counter)
                )
            return max(gone, 0)

        gone = self._write(remove)
        self._kept -= gone
        return gone

    def _touch(self) -> int:
        return self._db.execute("UPDATE counter SET value = value WHERE name = 'sent'").rowcount

    def _write(self, work: Callable[[], int]) -> int:
        """Do ``work`` in one transaction; once more if the disk just became full."""
        with self._translated():
            try:
                with self._transaction():
                    return work()
            except sqlite3.Error:
                if not self._enter_full():
                    raise
            with self._transaction():
                return work()

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
            raise storage_error(self._path, error) from error
