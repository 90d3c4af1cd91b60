"""A whole study: what it draws and costs; an interrupted one ends like a straight one."""

import json

import msgspec
import numpy as np
import pytest

from deepfusion_edge.errors import InputError
from deepfusion_edge.fusion import Threshold, Thresholds, judge
from deepfusion_edge.policy import Policy, Trend, Usual
from deepfusion_toolkit.defence import run_members
from deepfusion_toolkit.report.threats import page_of
from deepfusion_toolkit.threats import Attackers, Settings, study
from deepfusion_toolkit.threats import query as asking
from deepfusion_toolkit.threats.ablation import forms
from deepfusion_toolkit.threats.doubts import doubts
from deepfusion_toolkit.threats.ledger import Ledger
from tests.toolkit import threat_cases as cases

THREATS = ["white-box", "query"]
COUNT = 6


@pytest.fixture(scope="module")
def defended():
    model = cases.plain()
    return model, *cases.defence(model, 0.3, members=2)


def run(defended, state=None, threats=THREATS, **more):
    given = cases.SMALL | {"steps": 3, "queries": 10, "eot": (1, 2), "sweep": True} | more
    settings = Settings(eps=(12.0,), limit=COUNT, **given)
    return study(*defended, cases.images(), range(COUNT), Attackers(), threats, settings, state)


def figures(found):
    """The study without times."""
    rows = [msgspec.structs.replace(row, seconds=0.0) for row in found.study.rows]
    return msgspec.structs.replace(found.study, rows=rows)


def test_an_interrupted_study_ends_like_a_straight_one(defended, tmp_path, monkeypatch):
    straight = run(defended)
    state = tmp_path / "state"

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(asking, "square", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(defended, state)
    lines = state.read_bytes().split(b"\n")
    assert len(lines) > 5
    state.write_bytes(b"\n".join([*lines[:-3], lines[-3][: len(lines[-3]) // 2]]))  # cut off
    resumed = run(defended, state)
    assert figures(resumed) == figures(straight)
    kept = state.read_bytes()
    again = run(defended, state)
    assert figures(again) == figures(straight)
    assert state.read_bytes() == kept  # nothing was done again
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_state_of_another_study_is_refused(defended, tmp_path):
    state = tmp_path / "state"
    run(defended, state, ["query"], sweep=False)
    with pytest.raises(InputError, match="another defence, other images or another seed"):
        run(defended, state, ["query"], sweep=False, seed=1)
    state.write_bytes(state.read_bytes()[:-20] + b"x\n")
    with pytest.raises(InputError, match="is damaged"):
        run(defended, state, ["query"], sweep=False)


def test_a_ledger_makes_a_result_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"a": 1}

    for _ in range(2):
        ledger = Ledger(tmp_path / "state", "me")
        assert ledger.recall("key", dict[str, int], make) == {"a": 1}
    assert made == [1]
    with pytest.raises(InputError, match="is damaged"):
        ledger.recall("key", list[int], make)


def test_the_first_redraw_is_the_devices_own():
    case = cases.case(strength=0.3)
    judged = case.jury.judge(case.images.pixels, case.images.keys)
    for n in (0, 7):
        outputs = run_members(
            case.jury.defended,
            case.images.inputs[n : n + 1],
            seed=0,
            key=case.images.keys[n],
            members=2,
        )
        wanted = judge(outputs, None)
        assert judged.labels[0][n] == wanted.label
        assert judged.feature_variance[0][n] == pytest.approx(wanted.feature_variance, rel=1e-4)
        assert judged.disagreement[0][n] == pytest.approx(wanted.disagreement, abs=1e-5)
    assert judged.feature_variance[0] != judged.feature_variance[1]


def test_forms_cost_what_they_run():
    case = cases.case(strength=0.3, members=3)
    jury = case.jury._replace(plan=msgspec.structs.replace(case.jury.plan, prefix_share=0.75))
    settings = Settings(**cases.SMALL | {"members": (1, 5)})
    changed = type(case)(case.plain, case.plain, jury, case.images, settings, case.ledger)
    found = [(f.name, f.members, f.cost) for f in forms(changed, [case.plain])]
    assert found == [
        ("single", 1, 1.0),
        ("plain ensemble", 2, 2.0),
        ("eroded single", 1, 1.0),
        ("eroded ensemble", 3, 1.5),
        ("eroded ensemble", 5, 2.0),  # at the cost of the plain ensemble
    ]
    for form in forms(changed, []):
        right = form.right(case.images, case.images.pixels)
        assert right.shape in {(1, 8), (2, 8)}
        assert right.mean() > 0.5


@pytest.mark.parametrize("limit", [0.0, 1e9])
def test_a_policy_costs_one_run_or_both(limit):
    """Where nothing is usual everything escalates, where everything is nothing does."""
    model = cases.plain()
    defended, plan = cases.defence(model, 0.3, members=4)
    limit_of = Threshold(1e9, None)
    thresholds, usual = Thresholds(limit_of, limit_of, 0.01, 200), Usual(limit, limit)
    policy = Policy(2, thresholds, usual, usual, Trend(0.1, 0.9, 0.1))
    plan = msgspec.structs.replace(plan, prefix_share=0.75, thresholds=thresholds, policy=policy)
    found = run((model, defended, plan), threats=["query"], sweep=False)
    (clean,) = (seen for name, seen in found.study.adaptive.items() if name == "clean")
    assert clean.escalated.value == (limit == 0)
    assert clean.policy.cost == (1.25 + 1.75 if limit == 0 else 1.25)
    assert clean.always.cost == 1.75
    if limit == 0:
        assert clean.policy.accuracy == clean.always.accuracy
    assert "Adaptive policy against always all members" in page_of(found, tuple("abcd"))
    assert run((model, defended, plan_without(plan)), threats=["query"]).study.adaptive == {}


def plan_without(plan):
    return msgspec.structs.replace(plan, policy=None)


def test_the_page_and_the_schema(defended):
    found = run(defended, forms=True, rounds=1, members=(1,))
    html = page_of(found, tuple("abcd"))
    for heading in (
        "What each attacker knows",
        "Accuracy against epsilon",
        "White-box accuracy against EoT",
        "Scores, clean and attacked: feature variance",
        "Single, ensemble, eroded",
        "Attacked images",
        "under AutoAttack",
    ):
        assert heading in html
    told = json.loads(msgspec.json.encode(found.study))
    assert told["schema"] == 1
    assert {row["threat"] for row in told["rows"]} == set(THREATS)
    assert all(form["latency"] > 0 for form in told["ablation"])
    defence = next(form for form in told["ablation"] if form["eroded"] == told["members"])
    assert (told["cost"], told["latency"]) == (defence["cost"], defence["latency"])
    for row in told["rows"]:
        assert row["harm"]["value"] == pytest.approx(1 - row["robust"]["value"])  # no thresholds
        assert row["worst"]["value"] <= row["robust"]["value"]


def test_doubts_of_made_up_figures(defended):
    found = run(defended, threats=["white-box"], sweep=False).study
    row = found.rows[0]
    high = msgspec.structs.replace(row.robust, value=0.9)
    low = msgspec.structs.replace(row.robust, value=0.5)
    white = msgspec.structs.replace(row, robust=high, clean=high, images=200)
    clean = msgspec.structs.replace(found.clean, named_rate=0.01, images=1000)

    def said(rows, flat=True, sweep=(), of=clean, only=False):
        return " ".join(doubts(of, rows, [], sweep, {"8": flat}, [], 0.01, hardened_only=only))

    assert said([white]) == ""
    black = msgspec.structs.replace(white, threat="query", attack="Square", robust=low)
    assert "Square leaves 50.0%" in said([white, black])
    assert said([msgspec.structs.replace(white, robust=low, clean=high), black]) == ""
    assert "still falls on its last rung" in said([white], flat=False)
    assert "is above clean accuracy" in said([msgspec.structs.replace(white, clean=low)])
    many = msgspec.structs.replace(clean.flagged, value=0.05, low=0.04)
    over = msgspec.structs.replace(clean, flagged=many)
    assert "5.00% of clean images are flagged" in said([white], of=over)
    assert "has no thresholds" in said([white], of=found.clean)
    few = msgspec.structs.replace(clean, images=50)
    assert "give 300 or more" in said([white], of=few)
    end = msgspec.structs.replace(found.ladder[0])
    point = type("P", (), {"threat": "white-box", "attack": "PGD", "eps": 255.0, "robust": 0.2})
    assert end.eot
    assert "even at 255/255" in said([white], sweep=[point])
    share = msgspec.structs.replace(row.undefended, hits=9, total=10, value=0.9)
    weak = msgspec.structs.replace(
        white, threat="transfer", undefended=share, undefended_clean=share
    )
    assert "too weak to tell" in said([weak])
    assert "--undefended" in said([weak], only=True)
    assert np.isfinite(row.robust.value)
