"""The arithmetic on decisions made by hand, and the page made of them."""

import re

import msgspec
import numpy as np
import pytest
from PIL import Image

from benchmarks.demo import page, summary
from benchmarks.demo.witness import Received
from deepfusion_edge.errors import InputError
from deepfusion_edge.report.payload import AgentState, Decision, encode
from deepfusion_toolkit import data

LABELS = {"a/1": 0, "a/2": 0, "b/1": 1, "b/2": 1}


def decision(source, frame, label, state="accept", **given):
    return Decision(
        **{
            "id": f"{source}-{frame}",
            "agent": "demo-line",
            "source": source,
            "frame": frame,
            "sequence": 0,
            "time": "2026-01-01T00:00:00.000Z",
            "bundle": "0" * 64,
            "bundle_sequence": 1,
            "label": label,
            "class_name": "ab"[label],
            "confidence": 0.9,
            "state": state,
            "feature_variance": 0.1,
            "disagreement": 0.1,
            "members": 8,
            "seed": 1,
            "stream": 2,
            "latency_ms": 1.0,
        }
        | given
    )


def received(event):
    if isinstance(event, AgentState):
        return Received("deepfusion/demo-line/state", encode(event), 1, False, 0.0)
    topic = f"deepfusion/demo-line/decision/{event.source}"
    return Received(topic, encode(event), 1, False, 0.0)


def messages():
    says = [
        decision("clean", "a/1.png", 0),
        decision("clean", "a/2.png", 0, "suspect"),
        decision("clean", "b/1.png", 1),
        decision("clean", "b/2.png", 0),
        decision("attacked", "a/1.png", 0),
        decision("attacked", "a/2.png", 1, "reject"),
        decision("attacked", "b/1.png", 0),
        decision("attacked", "b/2.png", 1, "suspect"),
    ]
    end = AgentState(agent="demo-line", state="offline", reason="stopped")
    return [*map(received, says), received(says[0]), received(end)]


PREDICTED = {
    "clean": {"a/1": 0, "a/2": 0, "b/1": 1, "b/2": 1},
    "attacked": {"a/1": 1, "a/2": 1, "b/1": 0, "b/2": 1},
}


def test_counts_are_what_the_hand_counts():
    result = summary.judge(LABELS, PREDICTED, messages())
    assert result.clean.undefended == (4, 4, 0, 0)
    assert result.clean.defended == (4, 3, 1, 1)
    assert result.attacked.undefended == (4, 1, 0, 3)
    assert result.attacked.defended == (4, 2, 2, 1)
    assert summary.as_json(result) == {
        "images": 4,
        "clean_accuracy": 1.0,
        "attacked_accuracy": 0.25,
        "defended_accuracy": 0.5,
        "defended_clean_accuracy": 0.75,
        "flagged_attacked": 2,
        "flagged_clean": 1,
        "missed_attacked": 1,
        "missed_clean": 1,
        "mqtt_messages_received": 10,
    }
    assert summary.rows(result)[3] == (
        "attacked, defended",
        "50.0 % (2 of 4)",
        "50.0 % (2 of 4)",
        "25.0 % (1 of 4)",
    )


def test_a_second_attack_has_its_own_counts():
    more = [received(decision("held-out", f"{name}.png", 1)) for name in LABELS]
    predicted = PREDICTED | {"held-out": dict.fromkeys(LABELS, 0)}
    result = summary.judge(LABELS, predicted, [*messages(), *more])
    found = summary.as_json(result)
    assert (found["held_out_attacked_accuracy"], found["held_out_defended_accuracy"]) == (0.5, 0.5)
    assert found["held_out_missed_attacked"] == 2
    assert len(summary.rows(result)) == 6


@pytest.mark.parametrize("lost", range(8))
def test_no_figure_without_all_decisions(lost):
    kept = [m for m in messages() if m.payload != messages()[lost].payload]
    with pytest.raises(InputError, match="no decision received over MQTT for 1 of 4"):
        summary.judge(LABELS, PREDICTED, kept)


def test_no_figure_without_all_predictions():
    predicted = {**PREDICTED, "attacked": {"a/1": 1}}
    with pytest.raises(InputError, match=r"no prediction .* for 3 of 4 images, the first is a/2"):
        summary.judge(LABELS, predicted, messages())


def test_a_message_that_is_no_decision_is_named():
    strange = Received("x/demo-line/decision/clean", b"{}", 1, False, 0.0)
    with pytest.raises(InputError, match="no decision"):
        summary.decisions([strange])


def test_the_suffix_of_a_picture_does_not_matter():
    assert summary.key("a/b.1.jpeg") == summary.key("a/b.1.png") == "a/b.1"


@pytest.fixture
def story(tmp_path):
    for folder, shade in (("clean", 100), ("attacked", 110)):
        for name in LABELS:
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(path)
    return page.Story(
        title="A <title>",
        result=summary.judge(LABELS, PREDICTED, messages()),
        classes=2,
        clean=data.load(tmp_path / "clean"),
        attacked=data.load(tmp_path / "attacked"),
        predicted=PREDICTED,
        messages=messages(),
        settings={"eps": 16, "seed": 7, "held_out": ()},
        commands={"Attack": "deepfusion craft --eps 16"},
        seconds={"craft": 1.25},
        trained=True,
        separate=True,
        remarks=("Only here.",),
    )


def test_the_page_is_self_contained_and_true(story, tmp_path):
    page.write(story, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]{0,12})', text)
    assert links
    assert all(link.startswith("data:image") for link in links)
    assert "<script" not in text
    assert "A &lt;title&gt;" in text
    assert "50.0 % (2 of 4)" in text
    assert "amqtt, embedded, demo only" in text
    assert "same public surrogates" in text
    assert "Only here." in text
    payload = msgspec.json.decode(messages()[0].payload)
    assert payload["id"] in text


def test_pictures_show_every_kind_of_outcome(story):
    chosen = {item.file: kind for item, kind in page.choose(story, 4)}
    assert chosen == {
        "a/1.png": "the attack works, the defence holds",
        "a/2.png": "the attack works, the defence is fooled but flags it",
        "b/1.png": "the attack works on both",
        "b/2.png": "the attack fails",
    }
    assert len(page.choose(story, 2)) == 2
