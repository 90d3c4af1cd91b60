"""The agent's benchmark: what it counts is known beforehand, and each part runs, small."""

import json

import pytest

from benchmarks.agent import faults, picture
from benchmarks.agent.measure import GOALS
from benchmarks.cli import main
from deepfusion_edge import console
from deepfusion_edge.errors import InputError


def body(number, *, source="cam", seed=None, token="a"):  # noqa: S107 - of a database
    seed = number if seed is None else seed
    event = {"id": f"bench-{token}-{number}", "source": source, "frame": "f", "seed": seed}
    return json.dumps(event | {"stream": 0}).encode()


def ids(count):
    return {f"bench-a-{number}" for number in range(1, count + 1)}


def test_all_well():
    found = faults.judge([body(1), body(2), b'{"state": "online"}', body(3)], ids(3))
    assert found == {
        "lost": 0,
        "duplicated_after_ids": 0,
        "reordered": 0,
        "delivered_twice": 0,
        "arrived": 3,
        "unknown": 0,
    }


@pytest.mark.parametrize(
    ("deliveries", "figure", "count"),
    [
        ([body(1), body(3)], "lost", 1),
        ([], "lost", 3),
        ([body(1), body(2), body(3, seed=2)], "duplicated_after_ids", 1),
        ([body(1), body(3), body(2)], "reordered", 1),
        ([body(2), body(1, source="other"), body(3)], "reordered", 0),
        ([body(1), body(2), body(1), body(2), body(3)], "delivered_twice", 2),
        ([body(1), body(2), body(1), body(2), body(3)], "reordered", 0),
        ([body(1), body(2), body(3), body(3, token="b", seed=9)], "unknown", 1),  # noqa: S106
    ],
)
def test_each_trouble_is_counted(deliveries, figure, count):
    assert faults.judge(deliveries, ids(3))[figure] == count


@pytest.mark.slow
def test_every_part_runs_small_and_the_json_keeps_what_was_measured(tmp_path, make_broker, capfd):
    make_broker(started=False)  # skips or fails as the other tests do where there is no mosquitto
    out = tmp_path / "agent.json"
    few = ["--rounds", "1", "--frames", "8", "--starts", "1", "--events", "300", "--members", "2"]
    few += ["--backlog", "300", "--replay", "60", "--kills", "2", "--restarts", "2"]
    common = ["agent", "--json", str(out), "--model", "small", *few]
    assert main([*common, "--part", "speed", "--part", "faults"]) == 0
    first = json.loads(out.read_bytes())
    assert first["summary"]["lost"] == 0
    assert first["summary"]["drain_over_paho"] is None
    assert main(common) == 0
    result = json.loads(out.read_bytes())
    assert result["parts"]["speed"] == first["parts"]["speed"]  # it was not measured again
    summary = result["summary"]
    assert set(summary) == set(GOALS)
    assert None not in summary.values()
    assert (summary["kills"], summary["broker_restarts"]) == (2, 2)
    assert (summary["lost"], summary["duplicated_after_ids"], summary["reordered"]) == (0, 0, 0)
    assert "fps_over_bare" in capfd.readouterr().out


def test_a_picture_of_the_page_needs_images_and_a_browser(tmp_path, monkeypatch, capsys):
    words = ["picture", "page.png", "--bundle", "b", "--trust", "k", "--images", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(picture, "BROWSERS", ("sh",))
    assert console.run(picture.main) == InputError.exit_code
    assert "no folder of --images holds" in capsys.readouterr().err
    monkeypatch.setattr(picture, "BROWSERS", ())
    assert console.run(picture.main) == InputError.exit_code
    assert "no Chromium on this machine" in capsys.readouterr().err
