"""What the page remembers, what makes an agent unhealthy, what Prometheus reads."""

import io
import json

import pytest
from msgspec.structs import replace
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from deepfusion_edge.errors import StorageError
from deepfusion_edge.health import board as board_module
from deepfusion_edge.health.board import ALERTS, LAST, NOTABLE, STEP_S, STEPS, Board
from deepfusion_edge.health.checks import Vitals, ailments
from deepfusion_edge.health.seeing import STORE_AGE_S, Lately
from deepfusion_edge.image import thumbnail
from deepfusion_edge.report.device import Device
from deepfusion_edge.report.payload import AgentState, SourceState, Subject
from tests.edge.health_parts import NOW, STATE, Made, alerted, judged, seeing_of, tell, tell_alert

VITALS = Vitals(
    state=STATE, warm=True, silent_s=0.0, stuck_s=15.0, unfed_s=0.0, stale_s=60.0, outbox=None
)


class Clock:
    def __init__(self, at=NOW):
        self.at = at

    def __call__(self):
        return self.at


def test_the_newest_frames_and_the_last_that_were_not_accepted():
    clock = Clock()
    board = Board(thumbnails=True, now=clock)
    for n in range(500):
        clock.at += 1
        board.judged(judged("reject" if n == 3 else "accept", name=f"{n}.png", at=clock.at))
    shown = board.show()
    assert [seen.frame for seen in shown["last"]] == [f"{499 - n}.png" for n in range(LAST)]
    assert [(seen.frame, seen.number) for seen in shown["notable"]] == [("3.png", 4)]
    assert board.picture(4)
    assert board.picture(5) is None
    assert shown["counts"] == {"cam": {"accept": 499, "reject": 1}}
    assert len(board._pictures) == LAST + 1


def test_memory_is_bounded_whatever_comes():
    clock = Clock()
    board = Board(thumbnails=True, now=clock)
    for n in range(2 * STEPS):
        clock.at += STEP_S
        board.judged(judged("suspect", name="x" * 10_000, at=clock.at))
        subject = Subject("cam", "f" * 10_000, n, clock.at)
        board.alert(alerted("suspect", "r" * 10_000, subject=subject, at=clock.at))
    shown = board.show()
    sizes = {name: len(shown[name]) for name in ("last", "notable", "alerts", "trend")}
    assert sizes == {"last": LAST, "notable": NOTABLE, "alerts": ALERTS, "trend": STEPS}
    assert len(board._pictures) == LAST
    assert max(len(seen.frame) for seen in shown["last"]) == board_module.MOST_NAME
    assert max(len(told.reason + told.frame) for told in shown["alerts"]) == 700


def test_a_busy_line_makes_few_pictures_and_a_clock_set_back_stops_none():
    clock = Clock()
    board = Board(thumbnails=True, now=clock)
    for _ in range(1000):
        clock.at += 0.001
        board.judged(judged("accept", at=clock.at))
    made = sum(seen.picture for seen in board.show()["last"])
    assert made <= 1
    assert not board.show()["last"][0].picture
    board.judged(judged("suspect", at=clock.at))  # is not kept waiting by the accepted ones
    assert board.show()["last"][0].picture
    clock.at -= 86_400
    board.judged(judged("accept", at=clock.at))
    assert board.show()["last"][0].picture


def test_pictures_can_be_switched_off():
    board = Board(thumbnails=False, now=Clock())
    board.judged(judged("reject"))
    assert (board.show()["last"][0].picture, board.picture(1)) == (False, None)


@pytest.mark.parametrize("side", [(48, 64), (1, 1), (3000, 2), (2, 3000), (3000, 4000)])
def test_a_thumbnail_is_small_and_keeps_the_shape(side):
    frame = judged(side=side)
    image = Image.open(io.BytesIO(thumbnail(frame.pixels, 160)))
    image.load()
    assert (image.format, max(image.size) <= 160) == ("JPEG", True)
    height, width = side
    if min(side) > 100:
        assert image.width / image.height == pytest.approx(width / height, rel=0.02)


def test_the_trend_sums_what_came_in_each_step():
    clock = Clock(NOW // STEP_S * STEP_S)
    board = Board(thumbnails=False, now=clock)
    board.judged(judged("accept", disagreement=0.1))
    clock.at += STEP_S - 1
    board.judged(judged("suspect", disagreement=0.3))
    clock.at += 1
    board.judged(judged(None, problem="graph gives NaN"))
    first, second = board.show()["trend"]
    assert (first["frames"], first["notable"], first["latency_ms"]) == (2, 1, 34.0)
    assert (first["disagreement"], first["disagreement_max"]) == (pytest.approx(0.4), 0.3)
    assert (second["at"] - first["at"], second["frames"]) == (STEP_S, 1)
    assert (first["judged"], second["judged"], second["latency_ms"]) == (2, 0, 0.0)
    assert board.show()["last"][0].state == "failed"
    assert board.show()["last"][0].problem == "graph gives NaN"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"warm": False}, "warming up"),
        ({"silent_s": 14.9}, None),
        ({"silent_s": 15.0}, "stuck for 15 s"),
        ({"unfed_s": 59.9}, None),
        ({"unfed_s": 60.0}, "not looked at for 60 s"),
        ({"outbox": "the disk is full"}, "outbox: the disk is full"),
    ],
)
def test_each_ailment_alone(change, words):
    found = ailments(VITALS._replace(**change))
    assert len(found) == (0 if words is None else 1)
    assert words is None or words in found[0]


@pytest.mark.parametrize("state", ["connecting", "connected", "lost", "reconnecting", "ended"])
def test_a_source_that_is_not_there_is_an_ailment(state):
    sources = {"cam": SourceState(state=state, reason="no frame for 10 s")}
    found = ailments(VITALS._replace(state=replace(STATE, sources=sources)))
    if state in {"connected", "ended"}:
        assert found == ()
    else:
        assert found == (f"source cam is {state} (no frame for 10 s)",)


def test_a_broker_that_is_away_is_no_ailment():
    made = Made()
    made.broker = "connection refused"
    assert seeing_of(made).healthz().well


def test_the_disk_is_asked_now_and_then_only():
    made, clock = Made(), Clock(0.0)
    made.store_error = StorageError("outbox o.sqlite: disk I/O error", "check the disk")
    seeing = seeing_of(made)
    seeing._storing = Lately(seeing._store, age_s=STORE_AGE_S, monotonic=clock)
    health = seeing.healthz()
    assert not health.well
    assert json.loads(health.body)["reasons"] == ["outbox: outbox o.sqlite: disk I/O error"]
    made.store_error = None
    assert not seeing.healthz().well
    assert made.stored == 1
    clock.at += STORE_AGE_S
    assert seeing.healthz().well
    assert made.stored == 2


def samples(seeing):
    families = text_string_to_metric_families(seeing.metrics().decode())
    return {
        (s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples
    }


def test_metrics_say_what_happened():
    made = Made()
    made.broker = "connection refused"
    seeing = seeing_of(made)
    tell(seeing, judged("accept"), judged("accept"), judged("reject", source="two"))
    tell(seeing, judged("unreadable"), judged(None))
    tell_alert(seeing, "reject", "two/a.png: bridge")
    tell_alert(seeing, "unreadable", "no image", suppressed=41, since="2027-01-15T07:59:00.000Z")
    found = samples(seeing)
    frames = {key[1:]: value for key, value in found.items() if key[0] == "deepfusion_frames_total"}
    assert frames == {
        (("source", "cam"), ("verdict", "accept")): 2,
        (("source", "cam"), ("verdict", "failed")): 1,
        (("source", "cam"), ("verdict", "unreadable")): 1,
        (("source", "two"), ("verdict", "reject")): 1,
    }
    for name, labels, value in (
        ("members_total", (("source", "cam"),), 16),
        ("alerts_total", (("kind", "reject"),), 1),
        ("alerts_total", (("kind", "unreadable"),), 1),
        ("alerts_suppressed_total", (("kind", "unreadable"),), 41),
        ("latency_seconds_count", (("stage", "infer"),), 3),
        ("latency_seconds_sum", (("stage", "infer"),), 0.036),
        ("latency_seconds_bucket", (("le", "0.01"), ("stage", "infer")), 0),
        ("latency_seconds_bucket", (("le", "0.02"), ("stage", "infer")), 3),
        ("disagreement_nats_sum", (("source", "cam"),), 0.1),
        ("feature_variance_count", (("source", "two"),), 1),
        ("last_frame_timestamp_seconds", (("source", "cam"),), NOW),
        ("up", (), 1),
        ("broker_connected", (), 0),
        ("bundle_info", (("digest", "ab" * 32), ("id", "pcb"), ("sequence", "7")), 1),
        ("source_up", (("source", "cam"),), 1),
        ("source_lost_frames_total", (("source", "cam"), ("why", "dropped")), 2),
        ("outbox_events", (), 3),
        ("outbox_oldest_seconds", (), 4.5),
        ("outbox_dropped_total", (), 1),
        ("temperature_celsius", (("zone", "cpu-thermal"),), 58.25),
        ("temperature_trip_celsius", (("zone", "cpu-thermal"),), 99),
        ("clock_hertz", (("clock", "cpu0"),), 1.5104e9),
        ("power_mode_info", (("mode", "15W"),), 1),
        ("over_current_total", (), 2),
        ("throttled", (), 0),
        ("memory_available_bytes", (), 3 * 2**30),
    ):
        assert found[(f"deepfusion_{name}", *labels)] == pytest.approx(value), name
    assert found[("process_resident_memory_bytes",)] > 0


def test_metrics_of_an_agent_that_only_begins_and_shows_nothing():
    made = Made(AgentState(agent="a", state="online", reason="starting", device=Device()))
    found = samples(seeing_of(made))
    assert found[("deepfusion_up",)] == 0
    assert not [key for key in found if "temperature" in key[0] or "bundle" in key[0]]


def test_no_label_holds_what_a_sender_chose():
    seeing = seeing_of(Made())
    tell(seeing, judged("reject", name='evil"}\n# HELP x'))
    tell_alert(seeing, "reject", "evil reason", subject=Subject("cam", "evil", 0, NOW))
    assert b"evil" not in seeing.metrics()


def test_the_status_holds_everything_as_json():
    made = Made()
    made.history = [{"sequence": 7, "outcome": "committed"}]
    seeing = seeing_of(made)
    tell(seeing, judged("suspect", name="<b>\u2028.png", disagreement=0.4))
    status = json.loads(seeing.status())
    assert (status["schema"], status["ailments"], status["broker"]) == (1, [], None)
    assert status["last"][0]["frame"] == "<b>\u2028.png"
    assert status["notable"] == status["last"]
    assert status["device"]["power_mode"] == "15W"
    assert status["state"]["counters"]["kept"] == 3
    assert status["history"] == made.history
