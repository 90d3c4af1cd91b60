"""The defence benchmark: what is asked for is read or refused, and worst figures are the worst."""

import json
from pathlib import Path

import pytest

from benchmarks.cli import build_parser, main
from benchmarks.defence import measure, nets
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.threats import Settings
from tests.toolkit import attack_nets
from tests.toolkit import threat_cases as cases

SMALL = {
    "images": 6,
    "white-box-images": 2,
    "steps": 1,
    "queries": 3,
    "passes": 4,
    "attacks": "mi,fgsm",
}


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """A run on tiny nets that nobody trained: two attacks at two budgets, then white box."""
    root = attack_nets.squares(tmp_path / "squares", each=4)
    model = attack_nets.classifier(attack_nets.Colour)
    _, plan = cases.defence(model, 0.2)
    held_out = [attack_nets.classifier(attack_nets.public)]
    ready = nets.Prepared(folder.load(root), model, model, plan, held_out)
    monkeypatch.setattr(nets, "prepare", lambda _case, _args: ready)
    # the whole ladder is the business of the evaluation's own tests
    monkeypatch.setattr(measure, "Settings", lambda **given: Settings(**given, eot=(1,)))
    words = ["defence", "--json", tmp_path / "out.json", "--html", tmp_path / "out.html"]
    words += ["--work", tmp_path / "work", "--data", f"squares={root}@8,40"]
    words += [f"--{name}={value}" for name, value in SMALL.items()]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    return json.loads((tmp_path / "out.json").read_text()), (tmp_path / "out.html").read_text()


def test_a_run_has_every_threat_and_its_summary_is_the_worst_of_them(measured):
    found, page = measured
    (one,) = found["data"]
    rows = one["threats"]["rows"]
    asked = {(row["threat"], row["eps"]) for row in rows}
    assert asked == {(t, e) for t in ("transfer", "transfer-aware") for e in (8.0, 40.0)}
    assert {row["threat"] for row in one["close"]["rows"]} == {"white-box", "query"}
    summary = found["summary"]
    kept = [row["robust"]["value"] / row["clean"]["value"] for row in rows]
    assert summary["robust_over_clean_min"] == min(kept)
    strongest = [
        min(
            row["undefended"]["value"] / row["undefended_clean"]["value"]
            for row in rows
            if row["threat"] == "transfer" and row["eps"] == eps
        )
        for eps in (8.0, 40.0)
    ]
    assert summary["undefended_over_clean_max"] == max(strongest)
    assert summary["white_box_eot_robust"] == min(
        row["robust"]["value"] for row in one["close"]["rows"] if row["threat"] == "white-box"
    )
    # this plan has no policy: all members judge every frame
    assert summary["adaptive_policy_cost"] == one["threats"]["cost"] > 1
    assert summary["adaptive_policy_robust_loss_points"] == 0
    assert summary["n_images"] == 6
    assert "transfer-aware" in page
    assert "squares" in page


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--data", "pcb=/absent"), "is not NAME=DIR@EPS"),
        (("--data", "/absent@8"), "is not NAME=DIR@EPS"),
        (("--data", "pcb=/absent@eight"), "is not NAME=DIR@EPS"),
        (("--attacks", "none"), "there is no attack 'none'"),
        (("--held-out", "fire"), "fire cannot be held out"),
    ],
)
def test_what_makes_no_benchmark(more, says, tmp_path, capsys):
    assert main(["defence", "--json", str(tmp_path / "out.json"), *more]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_data_is_a_name_a_folder_and_budgets():
    words = ["defence", "--json", "x", "--data", "cifar-10=a/b=c@d@8,16"]
    (case,) = build_parser().parse_args(words).data
    assert case == ("cifar-10", Path("a/b=c@d"), (8.0, 16.0))
