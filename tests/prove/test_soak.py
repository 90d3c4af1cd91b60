"""The year's calendar, its claims on what is known beforehand, and its page."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.agent.rig import photographs
from benchmarks.prove.bundles import Maker
from benchmarks.prove.result import Part, Row
from benchmarks.prove.soak import measure, page
from benchmarks.prove.soak.calendar import BAD, WEEK, YEAR, Day, days
from benchmarks.prove.soak.plant import Plant, Sample
from benchmarks.prove.soak.year import Year, bad_bundle, live
from deepfusion_edge.bundle import store
from deepfusion_edge.errors import ModelError, TrustError
from tests.edge.conftest import keys, make_bundle, make_keys  # noqa: F401 - fixtures

NOW = "2026-06-01T00:00:00Z"


def body(number, *, again=None):
    frame = again or number
    event = {"id": f"soak-a-{number}", "source": "cam", "frame": f"{frame}", "seed": frame}
    return json.dumps(event | {"stream": 0}).encode()


@pytest.fixture
def week():
    """A week in which everything went well."""
    samples = [Sample(at / 4, 90.0, 4000.0, 60.0, 0, at, at) for at in range(28)]
    return Year(
        samples=samples,
        bodies=[body(number) for number in range(1, 11)],
        stored={f"soak-a-{number}" for number in range(1, 11)},
        given=10,
        updates=[2],
        refused=[(BAD[0], "it is not a bundle; copy it again")],
    )


def failed(seen):
    part = measure.judged(seen, days(WEEK), 0.5)
    return [row.claim.split(":")[0] for row in part.rows if row.state == "failed"]


def test_a_year_has_an_outage_a_day_an_update_a_week_and_a_bad_bundle_a_month():
    year = days(YEAR)
    assert [day.number for day in year] == list(range(365))
    assert sum(day.update for day in year) == 52
    assert Counter(day.bad for day in year if day.bad) == dict.fromkeys(BAD, 2)
    week = days(WEEK)
    assert [(day.update, day.bad) for day in week if day.update or day.bad] == [
        (False, BAD[0]),
        (True, None),
    ]


def test_a_week_without_trouble_holds_and_every_check_notices(week):
    part = measure.judged(week, days(WEEK), 0.5)
    assert {row.state for row in part.rows} == {"held"}
    assert all(row.guard for row in part.rows)
    assert part.figures == {"guards_mutated": 5, "guards_surviving": 0}


COUNTS = "Counts in are counts out"
UPDATES = "Every update from afar is kept (1), with an outage every day"
REFUSED = "No bad bundle stays in service (1)"
MEMORY, FILES = "Memory is flat", "Files are flat"


def growing(seen, name):
    return replace(seen, samples=[s._replace(**{name: 90 + s.day * 20}) for s in seen.samples])


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (lambda w: replace(w, bodies=w.bodies[1:]), COUNTS),
        (
            lambda w: replace(w, bodies=[*w.bodies[:3], w.bodies[4], w.bodies[3], *w.bodies[5:]]),
            COUNTS,
        ),
        (lambda w: replace(w, bodies=[*w.bodies[:-1], body(10, again=9)]), COUNTS),
        (lambda w: replace(w, bodies=[*w.bodies, body(11)]), COUNTS),
        (lambda w: replace(w, given=11), COUNTS),
        (lambda w: replace(w, trouble=["the outbox ends with 3 kept"]), COUNTS),
        (lambda w: replace(w, bodies=[*w.bodies, *w.bodies]), ""),
        (lambda w: replace(w, updates=[]), UPDATES),
        (lambda w: replace(w, trouble=["update 2: failed"]), UPDATES),
        (lambda w: replace(w, refused=[]), REFUSED),
        (lambda w: replace(w, trouble=["a bundle that expired: done"]), REFUSED),
        (lambda w: growing(w, "rss_mib"), MEMORY),
        (lambda w: growing(w, "files_kib"), FILES),
    ],
)
def test_each_trouble_breaks_its_claim(week, change, claim):
    assert failed(change(week)) == ([claim] if claim else [])


def test_every_bad_bundle_is_refused_for_its_reason(tmp_path, make_bundle):  # noqa: F811
    maker = Maker(make_bundle(tmp_path / "base.dfb"), tmp_path / "web")
    state, trusted = tmp_path / "state", [maker.public]
    store.install(maker.make(2), state, trusted, now=NOW, probe=False)
    reasons = (
        (BAD[0], TrustError, "differs|not canonical"),
        (BAD[1], TrustError, "key"),
        (BAD[2], TrustError, "has been installed already"),
        (BAD[3], TrustError, "expired on 2026-01-02"),
        (BAD[4], ModelError, "golden probe: fused probabilities differ"),
    )
    for wrong, kind, why in reasons:
        sequence = 2 if wrong == BAD[2] else 3
        with pytest.raises(kind, match=why):
            store.install(bad_bundle(maker, wrong, sequence), state, trusted, now=NOW)
    strict = store.install(bad_bundle(maker, BAD[5], 3), state, trusted, now=NOW, probe=False)
    assert strict.manifest.thresholds.feature_variance.reject == 0.0  # judged on probation


@pytest.mark.slow
def test_three_days_of_a_real_agent(tmp_path, make_bundle, make_broker):  # noqa: F811
    make_broker(started=False)  # skips or fails as other tests do where there is no mosquitto
    maker = Maker(make_bundle(tmp_path / "base.dfb"), tmp_path / "web")
    calendar = [Day(0, False, None), Day(1, True, None), Day(2, False, BAD[5])]
    passed = []
    with Plant(maker, tmp_path / "plant", photographs(4, (16, 16)), 15.0) as plant:
        seen = live(plant, maker, calendar, 3.0, passed.append)
    part = measure.judged(seen, calendar, 1.0)
    assert [row.seen for row in part.rows if row.state != "held"] == []
    assert passed == [1, 1, 1]
    assert seen.updates == [2]
    assert "rejects 100.0%" in seen.refused[0][1]
    assert store.load_current(plant.state, now=NOW).manifest.sequence == 2
    assert len(seen.samples) == 3 * 4
    assert max(sample.waiting for sample in seen.samples) > 0  # there were outages


def test_the_page_holds_every_row_and_line_and_nothing_from_elsewhere(week):
    part = Part((Row("<b>claim</b>", "held", "seen & heard"),))
    text = page.page(part, week.samples, days(WEEK))
    assert "&lt;b&gt;claim&lt;/b&gt;" in text
    assert "seen &amp; heard" in text
    assert text.count("<svg") == 4
    assert text.count("<polyline") == 5
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "nan" not in text


def test_a_line_that_rises_is_drawn_rising():
    (points,) = re.findall(
        r'points="([^"]+)"', page.chart([page.Line("a", [(0, 0), (7, 9)])], days(7))
    )
    (x0, y0), (x1, y1) = ([float(v) for v in one.split(",")] for one in points.split())
    assert x1 > x0
    assert y1 < y0


def test_no_points_are_no_error():
    assert ">36,454</text>" in page.chart([page.Line("a", [(0, 36454.0)])], days(1))
    assert "<svg" in page.chart([page.Line("a", [])], days(1))
