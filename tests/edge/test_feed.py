"""Turns, preparation and late frames, with sources that are lists."""

import threading
import time
from collections import deque

import pytest

from deepfusion_edge.feed import Feed, Prepared
from deepfusion_edge.source.base import Frame, Source


class Listed(Source):
    """Gives its frames; None in between says that there is nothing now."""

    def __init__(self, name, frames, *, late_s=None, endless=False):
        super().__init__(name, poll_interval_s=0.02)
        self.late_s, self.endless, self.closed = late_s, endless, False
        self.frames, self.tended = deque(frames), 0

    def __iter__(self):
        while self.frames or self.endless:
            yield self.frames.popleft() if self.frames else None
        self.connection = "ended"

    def tend(self):
        self.tended += 1

    def close(self):
        self.closed = True


def frame(source, n, *, captured_s=0.0):
    return Frame(source, f"{n}", b"", captured_s, n, 1)


def prepare(frame):
    return Prepared(frame, frame.content, 0.0)


@pytest.fixture
def run():
    """``run(feed)`` starts the feeder; at the end it must stop."""
    finish, threads = threading.Event(), []

    def start(feed):
        threads.append(threading.Thread(target=feed.run, args=(finish,)))
        threads[-1].start()
        return finish

    yield start
    finish.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def taken(feed):
    names = []
    while not feed.ended:
        prepared = feed.take(0.1)
        if prepared is not None:
            names.append((prepared.frame.source, prepared.frame.sequence))
    return names


def test_sources_take_turns_whatever_they_hold(run):
    busy = Listed("busy", [frame("busy", n) for n in range(50)])
    calm = Listed("calm", [frame("calm", n) for n in range(3)])
    feed = Feed([busy, calm], prepare)
    run(feed)
    names = taken(feed)
    assert names[:6] == [
        ("busy", 0),
        ("calm", 0),
        ("busy", 1),
        ("calm", 1),
        ("busy", 2),
        ("calm", 2),
    ]
    assert names[6:] == [("busy", n) for n in range(3, 50)]
    assert (busy.tally.taken, calm.tally.taken) == (50, 3)
    assert busy.closed
    assert calm.closed


def test_sources_are_tended_while_the_judge_is_busy(run):
    source = Listed("cam", [frame("cam", n) for n in range(3)])
    feed = Feed([source], prepare)
    run(feed)
    deadline = time.monotonic() + 10
    while source.tended < 5:  # nobody takes a frame
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(source.frames) == 2  # one is held ready, no more are taken from the source
    assert taken(feed) == [("cam", 0), ("cam", 1), ("cam", 2)]


def test_late_frames_are_dropped_when_their_turn_comes_and_counted(run):
    clock = [100.0]
    ages = (0.0, 5.0, 0.5)
    source = Listed(
        "cam", [frame("cam", n, captured_s=100.0 - age) for n, age in enumerate(ages)], late_s=1.0
    )
    feed = Feed([source], prepare, now=lambda: clock[0])
    run(feed)
    assert taken(feed) == [("cam", 0), ("cam", 2)]
    assert feed.states()["cam"].late == 1
    assert feed.states()["cam"].taken == 2


def test_a_frame_that_grew_late_while_it_was_held_is_dropped(run):
    clock = [100.0]
    source = Listed("cam", [frame("cam", 0, captured_s=100.0)], late_s=1.0)
    feed = Feed([source], prepare, now=lambda: clock[0])
    run(feed)
    deadline = time.monotonic() + 10
    while source.frames:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while not feed._held:
        assert time.monotonic() < deadline
    clock[0] = 102.0
    assert taken(feed) == []
    assert feed.states()["cam"].late == 1


def test_connections_are_told_once_a_change(run):
    told = []
    source = Listed("cam", [], endless=True)
    feed = Feed([source], prepare, changed=lambda name, state: told.append((name, state.state)))
    run(feed)

    def wait_for(count):
        deadline = time.monotonic() + 10
        while len(told) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    wait_for(1)
    seen = source.tended
    while source.tended < seen + 3:
        time.sleep(0.01)
    source.connection = "lost"
    wait_for(2)
    assert told == [("cam", "connected"), ("cam", "lost")]
