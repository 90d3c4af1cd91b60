import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.erosion import MAX_SEED
from deepfusion_edge.fusion import Verdict
from deepfusion_edge.report import payload

pytestmark = pytest.mark.processor

SUBJECT = payload.Subject(source="cam", frame="a/b.png", sequence=3, captured_s=1769860800.25)
BUNDLE = payload.BundleRef(id="line", digest="ab" * 32, sequence=7)
VERDICT = Verdict(
    label=1, confidence=0.75, state="suspect", feature_variance=0.5, disagreement=0.25, members=8
)


def decision(**changes):
    options = {
        "agent": "line-1",
        "subject": SUBJECT,
        "bundle": BUNDLE,
        "classes": ("ok", "scratch"),
        "verdict": VERDICT,
        "draw": payload.Draw(seed=MAX_SEED, stream=MAX_SEED - 1),
        "latency_ms": 1.23456,
    }
    return payload.decision("line-1-ab-1", **(options | changes))


def test_a_decision_word_for_word():
    assert json.loads(payload.encode(decision())) == {
        "schema": 1,
        "id": "line-1-ab-1",
        "agent": "line-1",
        "source": "cam",
        "frame": "a/b.png",
        "sequence": 3,
        "time": "2026-01-31T12:00:00.250Z",
        "bundle": "ab" * 32,
        "bundle_sequence": 7,
        "label": 1,
        "class": "scratch",
        "confidence": 0.75,
        "state": "suspect",
        "feature_variance": 0.5,
        "disagreement": 0.25,
        "members": 8,
        "seed": 9007199254740991,
        "stream": 9007199254740990,
        "latency_ms": 1.235,
    }


def test_seed_and_stream_survive_a_reader_that_knows_only_doubles():
    record = json.loads(payload.encode(decision()), parse_int=float)
    assert (int(record["seed"]), int(record["stream"])) == (MAX_SEED, MAX_SEED - 1)


def test_an_alert_word_for_word():
    made = payload.alert(
        "x-1",
        agent="x",
        kind="unreadable",
        reason="bad\n  file\x1b[1m",
        time_s=0.0,
        subject=SUBJECT,
    )
    assert json.loads(payload.encode(made)) == {
        "schema": 1,
        "id": "x-1",
        "agent": "x",
        "time": "1970-01-01T00:00:00.000Z",
        "kind": "unreadable",
        "reason": "bad file?[1m",
        "decision": None,
        "source": "cam",
        "frame": "a/b.png",
        "sequence": 3,
    }


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=2000))
def test_a_reason_is_one_short_printable_line(text):
    made = payload.alert("x-1", agent="x", kind="bundle", reason=text, time_s=0.0)
    assert len(made.reason) <= payload.MAX_REASON
    assert made.reason.isprintable()
    assert msgspec.json.decode(payload.encode(made), type=payload.Alert) == made


def test_another_schema_is_not_taken_for_this_one():
    text = payload.encode(decision()).replace(b'"schema":1', b'"schema":2')
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=payload.Decision)


def test_numpy_numbers_never_reach_the_encoder():
    record = decision(verdict=msgspec.structs.replace(VERDICT, confidence=float(np.float32(0.1))))
    assert 0.0999 < json.loads(payload.encode(record))["confidence"] < 0.1001


def test_the_will_has_no_time():
    body = payload.encode(payload.AgentState(agent="x", state="offline", reason="connection lost"))
    assert json.loads(body)["time"] is None
