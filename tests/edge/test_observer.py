"""Observers beside the loop: order, back-pressure, and that nothing is lost at the end."""

import threading
import time

from deepfusion_edge.observer import Handed, Observer


class Slow(Observer):
    def __init__(self):
        self.heard, self.threads = [], set()

    def judged(self, judged):
        time.sleep(0.01)
        self.heard.append(judged)
        self.threads.add(threading.get_ident())


def test_frames_are_told_in_order_in_another_thread_and_none_is_lost_at_the_end():
    slow, finish = Slow(), threading.Event()
    handed = Handed(slow, room=4)
    teller = threading.Thread(target=handed.run, args=(finish,))
    teller.start()
    for n in range(30):  # more than there is room for: the judging thread waits
        handed.judged(n)
    finish.set()
    teller.join(10)
    assert slow.heard == list(range(30))
    assert slow.threads == {teller.ident}


def test_the_rest_is_told_at_once():
    heard = []

    class Ear(Observer):
        def source(self, name, state):
            heard.append((name, state))

        def alert(self, alert):
            heard.append(alert)

        def state(self, state):
            heard.append(state)

    handed = Handed(Ear())
    handed.source("cam", 1)
    handed.alert("an alert")
    handed.state(2)
    assert heard == [("cam", 1), "an alert", 2]
