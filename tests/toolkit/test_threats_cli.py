"""``deepfusion evaluate --threat``: files for people and machines, mistakes in one line."""

import json

import pytest

from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.cli import main
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.evaluate import predict
from tests.toolkit import attack_nets as nets
from tests.toolkit import threat_cases as cases

LEARNER, PUBLIC = "tests.toolkit.attack_nets:learner", "tests.toolkit.attack_nets:public"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Clean images, some of them attacked, and the plan of a defence."""
    root = tmp_path_factory.mktemp("threats")
    nets.squares(root / "clean", each=3)
    nets.squares(root / "set", each=2)
    model = nets.classifier(nets.learner)
    plans.write(cases.defence(model, 0.2)[1], root / "plan.json")
    return root


def words(here, *more):
    made = ("--target", LEARNER, "--clean", here / "clean", "--defence", here / "plan.json")
    return [str(word) for word in ("evaluate", *made, *more)]


SMALL = (
    *("--limit", 6, "--redraws", 2, "--steps", 2, "--eot", 2, "--eot", 1, "--queries", 5),
    *("--eps", 16, "--no-sweep", "--members", 1, "--rounds", 1, "--passes", 2),
)


def test_all_threats_in_one_call(here, capsys):
    threats = ("transfer", "transfer-aware", "white-box", "query")
    asked = [word for threat in threats for word in ("--threat", threat)]
    files = ("--json", here / "r.json", "--html", here / "r.html", "--resume", here / "state")
    brought = ("--surrogate", PUBLIC, "--ensemble", PUBLIC, "--data", here / "set")
    assert main(words(here, *asked, *SMALL, *files, *brought)) == 0
    streams = capsys.readouterr()
    assert "What holds" in streams.out
    assert "warning: " in streams.err
    told = json.loads((here / "r.json").read_text())
    assert [row["threat"] for row in told["rows"]] == [
        *["transfer"] * 2,
        *["transfer-aware"] * 2,
        *["white-box"] * 2,
        "query",
    ]
    assert told["rows"][0]["attack"] == "set set"
    assert told["rows"][0]["images"] == 6
    assert told["clean"]["images"] == 9
    assert told["ladder"][0]["eot"] == 1
    clean = folder.load(here / "clean")
    right = predict(nets.classifier(nets.learner), clean, shown=False)
    hits = sum(r == i.label for r, i in zip(right, clean.items, strict=True))
    assert told["clean"]["undefended"]["hits"] == hits
    forms = [form["form"] for form in told["ablation"]]
    assert forms[:3] == ["single", "plain ensemble", "eroded single"]
    assert "Threats" in (here / "r.html").read_text()
    assert not list(here.glob("state.*"))


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (("--threat", "transfer"), 2, "nothing to craft on"),
        (("--threat", "transfer-aware"), 2, "nothing to craft on"),
        (("--threat", "query", "--target", PUBLIC), 4, "is for learner, not for"),
        (("--threat", "query", "--engine", "processes"), 2, "--engine processes"),
        (("--threat", "query", "--eot", "0"), 2, "eot must be in"),
        (("--eps", "8"), 2, "--eps without --threat"),
        (("--no-sweep",), 2, "--sweep without --threat"),
        ((), 2, "evaluate without --data"),
    ],
)
def test_options_that_do_not_go_together(here, more, code, says, capsys):
    assert main(words(here, *more)) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error:")
    assert says in lines[-1]


@pytest.mark.parametrize(("option", "says"), [("--defence", "--defence"), ("--clean", "--clean")])
def test_what_a_threat_needs(here, option, says, capsys):
    given = words(here, "--threat", "query")
    at = given.index(option)
    assert main(given[:at] + given[at + 2 :]) == 2
    assert f"without {says}" in capsys.readouterr().err


def test_a_plan_of_another_model(here, capsys):
    given = [PUBLIC if word == LEARNER else word for word in words(here, "--threat", "query")]
    assert main(given) == 4
    assert "other weights" in capsys.readouterr().err
