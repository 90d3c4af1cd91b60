"""Chunks are given out once each, whatever workers do; a crew of this process shows it."""

from collections import deque

import pytest

from deepfusion_edge.errors import InputError, UnreachableError
from deepfusion_toolkit.engines.base import Done, Failed, Lost, Ready
from deepfusion_toolkit.engines.sharing import TRIES, DefectError, attempt, share_out


class Crew:
    """Workers that square numbers; ``fate`` says what happens to the n-th event instead."""

    def __init__(self, fate=None):
        self.fate = fate or {}
        self.events, self.alive, self.count, self.started = deque(), set(), 0, 0
        self.most, self.stopped = 0, False

    def start(self):
        self.started += 1
        self.alive.add(self.started)
        self.most = max(self.most, len(self.alive))
        self.events.append((self.started, Ready()))
        return self.started

    def give(self, worker, chunk):
        assert worker in self.alive
        self.events.append((worker, Done(chunk**2, [f"note {chunk}"])))

    def wait(self):
        worker, event = self.events.popleft()
        event = self.fate.get(self.count, event)
        self.count += 1
        if isinstance(event, Lost):
            self.alive.discard(worker)
        return worker, event

    def stop(self):
        self.stopped = True


def shared(crew, chunks, workers=2, said=None):
    notify = (said if said is not None else []).append
    return dict(share_out(crew, workers, chunks, lambda n: [f"{n}.png"] * n, notify))


def test_each_chunk_once_and_no_more_workers_than_chunks():
    crew, said = Crew(), []
    assert shared(crew, [1, 2, 3, 4, 5], said=said) == {1: 1, 2: 4, 3: 9, 4: 16, 5: 25}
    assert sorted(said) == [f"note {n}" for n in range(1, 6)]
    assert (crew.most, crew.started, crew.stopped) == (2, 2, True)
    few = Crew()
    assert shared(few, [3], workers=8) == {3: 9}
    assert few.started == 1
    assert shared(none := Crew(), []) == {}
    assert none.started == 0


@pytest.mark.parametrize("at", range(9))
def test_one_worker_lost_at_any_time(at):
    """As it starts, at work, or at the end."""
    crew = Crew({at: Lost("signal 9")})
    assert shared(crew, [1, 2, 3, 4]) == {1: 1, 2: 4, 3: 9, 4: 16}
    assert crew.most <= 2
    assert crew.stopped


def test_a_chunk_that_loses_every_worker_is_named():
    crew = Crew({n: Lost("signal 9") for n in range(1, 99, 2)})  # ready, lost, ready, lost
    with pytest.raises(UnreachableError, match=r"5\.png, 5\.png, 5\.png and 2 more .signal 9.;"):
        shared(crew, [5], workers=1)
    assert crew.started == TRIES
    assert crew.stopped


def test_workers_that_never_get_ready():
    crew = Crew({n: Lost("exit code 1") for n in range(99)})
    with pytest.raises(UnreachableError, match="3 workers were lost before any was ready"):
        shared(crew, [1, 2])
    assert crew.stopped


def test_an_error_of_the_work_is_the_parents():
    crew = Crew({3: Failed(InputError("x.png is corrupt", "restore it"))})
    found = {}
    with pytest.raises(InputError, match=r"x\.png is corrupt"):
        found.update(share_out(crew, 2, [1, 2, 3], str, print))
    assert crew.stopped


def test_closing_stops_the_workers():
    crew = Crew()
    results = share_out(crew, 2, [1, 2, 3], str, lambda _: None)
    next(results)
    assert not crew.stopped
    results.close()
    assert crew.stopped


def test_what_work_raises_becomes_a_value():
    def fail(error):
        def work(notify):
            notify("n")
            raise error

        return attempt(work)

    assert attempt(lambda notify: notify("n") or 7) == Done(7, ["n"])
    assert isinstance(fail(InputError("a", "b")).error, InputError)
    missing = fail(FileNotFoundError(2, "No such file", "x.pt2")).error
    assert isinstance(missing, InputError)
    assert "x.pt2" in missing.what
    defect = fail(ZeroDivisionError("oops")).error
    assert isinstance(defect, DefectError)
    assert "ZeroDivisionError: oops" in str(defect)
