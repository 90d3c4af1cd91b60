"""Alerts: verdicts' one by one, a failing source summed up; every failed frame is counted."""

import itertools
import logging
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfusion_edge.alerts import Alerts
from deepfusion_edge.config import AgentConfig, FolderSource, parse_config
from deepfusion_edge.config import Alerts as Section
from deepfusion_edge.errors import UsageError
from deepfusion_edge.observer import Observer
from deepfusion_edge.outbox import Event, Outbox
from deepfusion_edge.report.payload import Alert, Subject

WALL_S = 1_800_000_000.0


class Line:
    """Alerts with a clock that is moved by hand."""

    def __init__(self, outbox, repeat_s, observer=None):
        config = AgentConfig(
            state_dir="s",
            sources=(FolderSource(name="cam", path="f"),),
            alerts=Section(repeat_s=repeat_s),
        )
        self.at, self.number, self.outbox = 0.0, 0, outbox
        self.alerts = Alerts(
            config,
            outbox,
            observer=observer,
            now=lambda: WALL_S + self.at,
            monotonic=lambda: self.at,
        )

    def fail(self, source="cam", kind="unreadable"):
        subject = Subject(source, f"{self.number}.png", self.number, WALL_S + self.at)
        self.alerts.frame_failed(kind, f"why {self.number}", subject)
        self.number += 1

    def told(self):
        return [msgspec.json.decode(event.body, type=Alert) for event in self.outbox.peek(10**4)]


@pytest.fixture
def make_line(tmp_path):
    with Outbox(tmp_path, max_events=10**4, max_bytes=2**24, ttl_s=None) as outbox:
        yield lambda repeat_s=60.0, **options: Line(outbox, repeat_s, **options)


def stands_for(alert):
    return 1 + (alert.suppressed or 0)


def test_a_broken_camera_for_an_hour_is_an_alert_a_minute(make_line):
    line = make_line()
    for n in range(3600 * 3):
        line.at = n / 3
        line.fail()
        line.alerts.tell_due()
    told = line.told()
    assert len(told) == 60
    assert (told[0].suppressed, told[0].since) == (msgspec.UNSET, msgspec.UNSET)
    assert [alert.suppressed for alert in told[1:]] == [179] * 59
    assert (told[1].reason, told[1].frame) == ("why 180", "180.png")
    assert (told[1].since, told[1].time) == ("2027-01-15T08:00:00.333Z", "2027-01-15T08:01:00.000Z")
    line.alerts.tell_due(ending=True)
    assert sum(map(stands_for, line.told())) == line.number


def test_what_waits_is_told_when_its_time_comes_without_another_failure(make_line):
    line = make_line()
    for _ in range(3):
        line.fail()
    line.at = 59.9
    line.alerts.tell_due()
    assert len(line.told()) == 1
    line.at = 60.0
    line.alerts.tell_due()
    assert [stands_for(alert) for alert in line.told()] == [1, 2]
    line.at = 119.9
    line.fail()
    assert len(line.told()) == 2
    line.at = 180.0
    line.alerts.tell_due()  # and a minute of quiet makes the next one the first again
    line.at = 240.1
    line.alerts.tell_due()
    line.fail()
    assert [stands_for(alert) for alert in line.told()] == [1, 2, 1, 1]


def test_each_source_and_kind_has_its_own_first(make_line):
    line = make_line()
    for source, kind in (("a", "unreadable"), ("a", "model"), ("b", "unreadable")):
        for _ in range(5):
            line.fail(source, kind)
    assert [(a.source, a.kind) for a in line.told()] == [
        ("a", "unreadable"),
        ("a", "model"),
        ("b", "unreadable"),
    ]


def test_an_alert_of_a_verdict_is_never_left_out(make_line):
    line = make_line()
    for n in range(50):
        subject = Subject("cam", f"{n}.png", n, WALL_S)
        line.alerts.tell("reject", "scratch", subject=subject, about=f"decision-{n}")
    assert [a.decision for a in line.told()] == [f"decision-{n}" for n in range(50)]


def test_zero_seconds_is_an_alert_for_each_frame(make_line):
    line = make_line(0.0)
    for _ in range(5):
        line.fail()
    assert [stands_for(alert) for alert in line.told()] == [1] * 5


def test_the_log_names_every_frame_and_the_observer_hears_what_is_sent(make_line, caplog):
    heard = []

    class Ear(Observer):
        def alert(self, alert):
            heard.append(alert)

    line = make_line(observer=Ear())
    with caplog.at_level(logging.INFO, logger="deepfusion_edge"):
        for _ in range(3):
            line.fail()
        line.alerts.tell_due(ending=True)
    assert heard == line.told()
    assert caplog.messages == [
        "alert unreadable: cam/0.png: why 0",
        "unreadable cam/1.png: why 1",
        "unreadable cam/2.png: why 2",
        "alert unreadable: cam/2.png: why 2 (and 1 more since 2027-01-15T08:00:00.000Z)",
    ]


class Memory:
    """As much of an outbox as alerts need."""

    def __init__(self):
        self.events = []

    def put(self, channel, render, **_):
        self.events.append(Event(len(self.events) + 1, channel, render(str(len(self.events)))))

    def peek(self, _batch):
        return self.events


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab"))))
def test_every_failed_frame_is_in_one_alert_and_alerts_keep_their_distance(repeat_s, failures):
    line, failed, at = Line(Memory(), repeat_s), Counter(), {"a": [], "b": []}
    for wait_s, source in failures:
        line.at += wait_s
        line.fail(source)
        failed[source] += 1
        for alert in line.told()[sum(map(len, at.values())) :]:
            at[alert.source].append(line.at)
    for moments in at.values():
        assert all(b - a >= repeat_s for a, b in itertools.pairwise(moments))
    line.alerts.tell_due(ending=True)
    said = Counter()
    for alert in line.told():
        said[alert.source] += stands_for(alert)
    assert said == failed


def test_the_section_is_read_and_checked(tmp_path):
    def read(text):
        start = b'{"state_dir": "s", "sources": [{"kind": "folder", "name": "c", "path": "f"}]'
        return parse_config(start + text + b"}", tmp_path).alerts.repeat_s

    assert read(b"") == 60.0
    assert read(b', "alerts": {"repeat_s": 5}') == 5.0
    with pytest.raises(UsageError, match=r"alerts\.repeat_s"):
        read(b', "alerts": {"repeat_s": -1}')
