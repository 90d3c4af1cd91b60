"""What other threads may change between frames, and when it is refused."""

import threading
from concurrent.futures import CancelledError

import pytest

from deepfusion_edge.control import Control


def test_actions_are_done_in_order_by_the_thread_that_serves():
    control = Control()
    judge = []
    futures = [
        control.request(lambda judge, n=n: judge.append((n, threading.get_ident())))
        for n in range(3)
    ]
    assert judge == []
    worker = threading.Thread(target=control.serve, args=(judge,))
    worker.start()
    worker.join()
    assert [n for n, _ in judge] == [0, 1, 2]
    assert {ident for _, ident in judge} == {worker.ident}
    assert all(future.done() for future in futures)


def test_the_answer_and_the_error_reach_who_asked():
    control = Control()
    good, bad = control.request(lambda judge: judge + 1), control.request(lambda judge: judge / 0)
    control.serve(41)
    assert good.result(0) == 42
    with pytest.raises(ZeroDivisionError):
        bad.result(0)


def test_a_cancelled_request_is_left_out():
    control = Control()
    done = []
    first = control.request(lambda _: done.append(1))
    control.request(lambda _: done.append(2))
    assert first.cancel()
    control.serve(None)
    assert done == [2]


def test_after_the_end_requests_are_cancelled_not_forgotten():
    control = Control()
    waiting = control.request(lambda _: 1)
    control.close()
    for future in (waiting, control.request(lambda _: 1)):
        with pytest.raises(CancelledError):
            future.result(0)


def test_a_restart_ends_the_run():
    control = Control(threading.Event())
    control.restart("new configuration")
    assert control.stop.is_set()
    assert control.restart_reason == "new configuration"
