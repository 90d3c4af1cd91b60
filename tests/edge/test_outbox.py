import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.errors import StorageError
from deepfusion_edge.outbox import CORRUPT, DATABASE, Outbox, read_counters

pytestmark = pytest.mark.processor


def open_box(folder, *, max_events=1000, max_bytes=2**24, ttl_s=None):
    return Outbox(folder, max_events=max_events, max_bytes=max_bytes, ttl_s=ttl_s)


def put(box, text, now_s=0.0):
    return box.put("alert", lambda _: text.encode(), now_s=now_s)


def test_first_in_first_out_until_confirmed(tmp_path):
    with open_box(tmp_path) as box:
        names = [put(box, str(n)) for n in range(5)]
        events = box.peek(3)
        assert [e.body for e in events] == [b"0", b"1", b"2"]
        assert [e.body for e in box.peek(9, after=events[1].id)] == [b"2", b"3", b"4"]
        box.ack([e.id for e in events] + [999])
        assert [e.body for e in box.peek(9)] == [b"3", b"4"]
        assert len(set(names)) == 5
        counters = box.counters(now_s=7.0)
    assert (counters.received, counters.sent, counters.kept) == (5, 3, 2)
    assert counters.oldest_age_s == 7.0


def test_the_event_is_rendered_with_its_own_name(tmp_path):
    with open_box(tmp_path) as box:
        name = box.put("alert", str.encode, now_s=0)
        assert box.peek(1)[0].body == name.encode()


def test_ids_grow_even_after_everything_was_sent_and_the_outbox_reopened(tmp_path):
    with open_box(tmp_path) as box:
        first = put(box, "a")
        box.ack([e.id for e in box.peek(9)])
    with open_box(tmp_path) as box:
        second = put(box, "b")
        assert box.kept == 1
    token, number = first.split("-")
    assert second == f"{token}-{int(number) + 1}"


def test_beyond_the_count_the_oldest_go(tmp_path):
    with open_box(tmp_path, max_events=3) as box:
        for n in range(10):
            put(box, str(n))
        assert [e.body for e in box.peek(9)] == [b"7", b"8", b"9"]
        assert box.counters(now_s=0).dropped == 7
    with open_box(tmp_path, max_events=1) as box:
        put(box, "new")
        assert [e.body for e in box.peek(9)] == [b"new"]


def test_beyond_the_file_size_the_oldest_go_and_the_file_does_not_grow(tmp_path):
    limit = 2**17
    with open_box(tmp_path, max_events=10**6, max_bytes=limit) as box:
        for n in range(600):
            put(box, f"{n:05}" + "x" * 995)
        kept = [int(e.body[:5]) for e in box.peek(10**6)]
        counters = box.counters(now_s=0)
    assert kept == list(range(600 - len(kept), 600))
    assert 30 < len(kept) < 131
    assert counters.dropped == 600 - len(kept)
    assert (tmp_path / DATABASE).stat().st_size <= limit


def test_an_event_larger_than_the_outbox_is_an_error(tmp_path):
    with open_box(tmp_path, max_bytes=2**17) as box, pytest.raises(StorageError) as caught:
        put(box, "x" * 2**18)
    assert "full" in caught.value.what


def test_time_to_live(tmp_path):
    with open_box(tmp_path, ttl_s=10) as box:
        put(box, "old", now_s=100)
        put(box, "new", now_s=105)
        assert box.expire(now_s=110) == 0
        assert box.expire(now_s=111) == 1
        assert [e.body for e in box.peek(9)] == [b"new"]
        assert box.counters(now_s=111).expired == 1
        assert box.kept == 1


def test_thousands_may_expire_at_once(tmp_path):
    with open_box(tmp_path, max_events=10**6, ttl_s=10) as box:
        for n in range(3500):
            put(box, str(n), now_s=100)
        put(box, "new", now_s=105)
        assert box.expire(now_s=111) == 3500
        assert [e.body for e in box.peek(9)] == [b"new"]
        assert box.expire(now_s=111) == 0


def test_a_clock_that_is_set_makes_nothing_older(tmp_path):
    with open_box(tmp_path, max_events=10**6, ttl_s=10) as box:
        put(box, "of the run before", now_s=1000)
    with open_box(tmp_path, max_events=10**6, ttl_s=10) as box:
        for n in range(1500):
            put(box, str(n), now_s=5)
        box.move_clock(995)
        assert box.expire(now_s=1009) == 0
        assert box.expire(now_s=1010.5) == 1501  # the oldest hides none that are as old
        box.check()


def test_no_time_to_live(tmp_path):
    with open_box(tmp_path) as box:
        put(box, "old")
        assert box.expire(now_s=1e12) == 0


def test_a_second_owner_is_refused_and_may_read_the_counters(tmp_path):
    with open_box(tmp_path) as box:
        put(box, "a")
        with pytest.raises(StorageError, match="another agent"):
            open_box(tmp_path)
        counters = read_counters(tmp_path, now_s=3.0)
        assert counters is not None
        assert (counters.kept, counters.oldest_age_s) == (1, 3.0)
    open_box(tmp_path).close()


def test_no_outbox_has_no_counters(tmp_path):
    assert read_counters(tmp_path, now_s=0) is None


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_an_outbox_whose_tables_are_not_yet_made_has_no_counters(tmp_path, journal):
    (tmp_path / DATABASE).touch()
    assert read_counters(tmp_path, now_s=0) is None
    making = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    making.execute(f"PRAGMA journal_mode = {journal}")
    assert read_counters(tmp_path, now_s=0) is None
    making.execute("BEGIN IMMEDIATE")
    making.execute("CREATE TABLE event(id INTEGER PRIMARY KEY)")  # of an agent at work on it
    assert read_counters(tmp_path, now_s=0) is None
    making.execute("ROLLBACK")
    making.close()
    with open_box(tmp_path):
        counters = read_counters(tmp_path, now_s=0)
    assert counters is not None
    assert set(counters) == {0}


def test_an_outbox_may_be_looked_at_while_another_process_makes_it(tmp_path):
    folders = [tmp_path / str(n) for n in range(12)]
    for folder in folders:
        folder.mkdir()
    code = f"""
        from pathlib import Path
        from deepfusion_edge.outbox import Outbox
        for n in range({len(folders)}):
            folder = Path(r"{tmp_path}") / str(n)
            with Outbox(folder, max_events=9, max_bytes=2**24, ttl_s=None) as box:
                box.put("alert", str.encode, now_s=0)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    looks = 0
    try:
        for folder in folders:
            while (counters := read_counters(folder, now_s=0)) is None or not counters.received:
                looks += 1
                assert child.poll() in {None, 0}
    finally:
        child.kill()
        child.wait()
    assert looks > len(folders)


def _overwrite(path):
    path.write_bytes(b"not a database" * 500)


def _drop_a_table(path):
    db = sqlite3.connect(path)
    db.execute("DROP TABLE counter")
    db.close()


def _bar_the_log(path):
    path.with_name(f"{path.name}-wal").mkdir()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_overwrite, "is damaged"),
        (_drop_a_table, "is damaged"),
        (_bar_the_log, "cannot be read"),
    ],
)
def test_counters_that_cannot_be_read_are_told_in_plain_words(tmp_path, damage, says):
    with open_box(tmp_path):
        pass
    damage(tmp_path / DATABASE)
    with pytest.raises(StorageError, match=says) as caught:
        read_counters(tmp_path, now_s=0)
    assert not any(word in str(caught.value) for word in ("no such", "database", "unable"))


def test_killed_without_warning_nothing_stored_is_lost(tmp_path):
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from deepfusion_edge.outbox import Outbox
        box = Outbox(Path(sys.argv[1]), max_events=10**6, max_bytes=2**26, ttl_s=None)
        while True:
            print(box.put("alert", str.encode, now_s=0.0), flush=True)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(300)]
        os.kill(process.pid, signal.SIGKILL)
        told += [line.strip() for line in process.stdout if line.endswith("\n")]
    with open_box(tmp_path, max_events=10**6, max_bytes=2**26) as box:
        stored = [e.body.decode() for e in box.peek(10**6)]
        assert stored[: len(told)] == told
        assert len(stored) - len(told) <= 1  # stored, killed before it could be told
        assert put(box, "next") not in stored


@pytest.mark.parametrize("damage", ["garbage", "pages", "foreign"])
def test_a_corrupt_database_is_moved_aside(tmp_path, damage):
    path = tmp_path / DATABASE
    with open_box(tmp_path) as box:
        old = put(box, "x" * 20_000)
    if damage == "garbage":
        path.write_bytes(b"not a database" * 1000)
    elif damage == "pages":
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xa5" * (len(data) - 4096)
        path.write_bytes(data)
    else:
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE event(other)")
        db.close()
    with open_box(tmp_path) as box:
        assert box.moved_aside == tmp_path / CORRUPT
        assert box.moved_aside.is_file()
        assert box.kept == 0
        assert put(box, "y") != old  # another token: the name is not used twice
    with open_box(tmp_path) as box:
        assert box.moved_aside is None
        assert box.kept == 1


def test_a_newer_schema_is_refused_not_moved(tmp_path):
    open_box(tmp_path).close()
    db = sqlite3.connect(tmp_path / DATABASE)
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(StorageError, match="schema 2"):
        open_box(tmp_path)
    assert not (tmp_path / CORRUPT).exists()


def test_threads_may_share_it(tmp_path):
    with open_box(tmp_path, max_events=10_000) as box:

        def work():
            for _ in range(100):
                put(box, "a")
                box.ack([e.id for e in box.peek(1)])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counters = box.counters(now_s=0)
        assert counters.received == 400
        assert counters.sent + counters.kept == 400
        assert counters.kept == box.kept


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.one_of(st.integers(0, 9), st.sampled_from(["ack", "expire", "reopen"])), max_size=30
    )
)
def test_against_a_list(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("box")
    box = open_box(folder, max_events=5, ttl_s=8)
    model: list[tuple[int, float]] = []
    now, count = 0.0, 0
    try:
        for step in steps:
            now += 1
            if step == "ack":
                box.ack([e.id for e in box.peek(2)])
                model = model[2:]
            elif step == "expire":
                box.expire(now_s=now)
                model = [m for m in model if m[1] >= now - 8]
            elif step == "reopen":
                box.close()
                box = open_box(folder, max_events=5, ttl_s=8)
            else:
                count += 1
                put(box, str(count), now_s=now)
                model = [*model, (count, now)][-5:]
            assert [int(e.body) for e in box.peek(99)] == [m[0] for m in model]
            c = box.counters(now_s=now)
            assert c.received == c.sent + c.dropped + c.expired + c.kept
            assert c.kept == box.kept == len(model)
    finally:
        box.close()
