"""The outbox on a disk of a few megabytes that somebody else has filled to the last block."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from benchmarks.prove.faults.storage import fill
from deepfusion_edge.errors import StorageError
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.outbox import box as box_module
from deepfusion_edge.outbox.database import LOG_BYTES


def open_box(folder):
    return Outbox(folder, max_events=10**6, max_bytes=2**30, ttl_s=None)


def put(box, number):
    box.put("alert", lambda _: f"{number:08}".encode() + b"x" * 400, now_s=0.0)


def numbers(box):
    return [int(event.body[:8]) for event in box.peek(10**6)]


@pytest.mark.parametrize("before", [0, 1, 100, 3000])
def test_the_newest_events_stay_and_the_oldest_go(small_disk, before):
    with open_box(small_disk) as box:
        for number in range(before):
            put(box, number)
        fill(small_disk)
        for number in range(before, before + 20_000):
            put(box, number)
            if number % 1000 == 0:
                fill(small_disk)  # whatever is freed, somebody takes it
        kept = numbers(box)
        assert kept == list(range(before + 20_000 - len(kept), before + 20_000))
        assert len(kept) >= min(before, 2500) * 0.8
        counters = box.counters(now_s=0)
        assert counters.disk_full == 1
        assert counters.dropped == before + 20_000 - len(kept)
        assert counters.kept == box.kept == len(kept)
        box.ack([event.id for event in box.peek(500)])
        assert numbers(box) == kept[500:]


def test_a_disk_with_space_again_is_noticed(small_disk, caplog):
    with open_box(small_disk) as box:
        put(box, 0)
        fill(small_disk)
        for number in range(1, 5000):
            put(box, number)
        few = box.kept
        assert box.disk_full
        assert len([r for r in caplog.records if "is full" in r.message]) == 1
        box.expire(now_s=0)
        assert box.disk_full
        (small_disk / "somebody").unlink()
        box.expire(now_s=0)
        assert not box.disk_full
        assert (small_disk / box_module.RESERVE).stat().st_size == LOG_BYTES
        for number in range(5000, 10_000):
            put(box, number)
        assert box.kept == few + 5000


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_it_opens_on_a_disk_that_is_still_full(small_disk, how):
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from deepfusion_edge.outbox import Outbox
        box = Outbox(Path(sys.argv[1]), max_events=10**6, max_bytes=2**30, ttl_s=None)
        for number in range(int(sys.argv[2])):
            box.put("alert", lambda _: f"{number:08}".encode() + b"x" * 400, now_s=0.0)
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(number + 1, number + 3001):
            box.put("alert", lambda _: f"{number:08}".encode() + b"x" * 400, now_s=0.0)
            print(number, flush=True)
        sys.stdin.readline()
        box.close()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, small_disk, "1000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        fill(small_disk)
        process.stdin.write("\n")
        process.stdin.flush()
        told = [int(process.stdout.readline()) for _ in range(3000)]
        if how == "killed":
            os.kill(process.pid, signal.SIGKILL)
        else:
            process.stdin.write("\n")
            process.stdin.flush()
    with open_box(small_disk) as box:
        kept = numbers(box)
        assert kept[-1] == told[-1]
        fill(small_disk)
        for number in range(told[-1] + 1, told[-1] + 2001):
            put(box, number)
        kept = numbers(box)
        assert kept == list(range(kept[0], told[-1] + 2001))
        assert len(kept) > 500


@pytest.mark.parametrize("without", ["_secure_space", "_limit"])
def test_without_the_guards_it_would_fail(small_disk, monkeypatch, without):
    """One by one: space of its own from the beginning, and the cap on the file's size."""
    monkeypatch.setattr(Outbox, without, lambda *_: None)
    with open_box(small_disk) as box:
        for number in range(1000):
            put(box, number)
        fill(small_disk)

        def more():
            for number in range(1000, 20_000):
                put(box, number)

        with pytest.raises(StorageError, match="free some space"):
            more()
