"""The parts of an attack as a user sets them: budget, then file, then options; and mistakes."""

import json
from dataclasses import fields, replace

import pytest
import torch

from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_toolkit import commands, names
from deepfusion_toolkit.attacks import (
    Settings,
    attack,
    compiled,
    cost,
    prepare,
    settings_for,
)
from deepfusion_toolkit.attacks.directions import DIRECTIONS
from deepfusion_toolkit.attacks.methods import BASELINES
from deepfusion_toolkit.cli import build_parser, main
from tests.toolkit import attack_nets as nets

NET = "tests.toolkit.attack_nets:three"
BASE = ("craft", "--data", "absent", "--out", "absent-too", "--surrogate", NET)
GIVEN = {
    "compile": True,
    "steps": 3,
    "step_size": 1.5,
    "decay": 0.5,
    "nesterov": True,
    "loss": "logit",
    "group": 1,
    "erosion": 0.5,
    "kinds": ["skip", "norm"],
    "residual": 0.6,
    "feature_weight": 0.25,
    "adaptive": True,
    "tap": ["relu", "three:add"],
    "transforms": ["si", "bsr"],
    "kernel": 9,
    "samples": 2,
    "radius": 0.5,
    "mixup": 0.1,
    "precision": "bf16",
}
"""A value of every part that plain momentum does not have."""


def chosen(*more):
    return commands._attack(build_parser().parse_args([*BASE, *map(str, more)]))


def as_tuple(value):
    return tuple(value) if isinstance(value, list) else value


def as_option(name, value):
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-")]
    return [option, ",".join(value) if isinstance(value, list) else str(value)]


@pytest.fixture
def config(tmp_path):
    def write(content):
        path = tmp_path / "parts.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


@pytest.fixture
def refused(capsys):
    """Run a craft that must fail; return its one line."""

    def run(code, *more):
        assert main([*BASE, *map(str, more)]) == code
        streams = capsys.readouterr()
        assert streams.out == ""
        (line,) = streams.err.splitlines()
        assert line.startswith("error: ")
        assert "; " in line  # what is wrong, then what to do
        return line

    return run


def test_every_part_is_a_setting_and_the_rest_is_chosen_otherwise():
    known = {f.name for f in fields(Settings)}
    otherwise = {"eps", "targeted", "seed", "method", "start"}  # --attack and options of their own
    assert set(names.PARTS) == known - otherwise == set(GIVEN)
    assert len(set(names.PARTS)) == len(names.PARTS)


def test_names_are_the_tables():
    """The command line knows names without loading what they stand for."""
    assert tuple(BASELINES) == names.BASELINES
    assert (names.DEEP_FUSION, *BASELINES) == names.ATTACKS
    plain = {settings_for(n, passes=100, surrogates=1).method for n in names.BASELINES}
    assert plain == {*DIRECTIONS, "cw"}


@pytest.mark.parametrize("name", names.PARTS)
def test_every_part_is_an_option(name):
    before = chosen("--attack", "mi")
    found = chosen("--attack", "mi", *as_option(name, GIVEN[name]))
    assert getattr(found, name) == as_tuple(GIVEN[name]) != getattr(before, name)


@pytest.mark.parametrize("name", names.PARTS)
def test_a_file_overrides_the_budget_and_options_the_file(name, config):
    before = chosen("--attack", "mi")
    file = config({name.replace("_", "-"): GIVEN[name]})
    found = chosen("--attack", "mi", "--config", file)
    assert getattr(found, name) == as_tuple(GIVEN[name])
    others = [f.name for f in fields(Settings) if f.name != name]
    assert all(getattr(found, other) == getattr(before, other) for other in others)
    other = {
        "nesterov": False,
        "adaptive": False,
        "compile": False,
        "loss": "ce",
        "kinds": ["activation"],
        "tap": ["gelu"],
        "transforms": ["di"],
        "kernel": 3,
        "precision": "fp32",
    }.get(name, 1)
    again = chosen("--attack", "mi", "--config", file, *as_option(name, other))
    assert getattr(again, name) == as_tuple(other)


def test_all_parts_at_once_from_a_file(config):
    given = {name: value for name, value in GIVEN.items() if name != "compile"}
    found = chosen("--config", config(given))
    assert {name: getattr(found, name) for name in given} == {
        name: as_tuple(value) for name, value in given.items()
    }
    assert chosen("--config", config({})) == chosen()
    assert chosen("--config", config({"step_size": None})).step_size is None
    assert chosen("--transforms", "").transforms == ()


def test_the_attack_seed_and_epsilon_are_the_users():
    found = chosen("--attack", "pgd", "--eps", 4, "--seed", 9, "--targeted", "--passes", 12)
    assert (found.eps, found.seed, found.targeted, found.start) == (4.0, 9, True, True)
    assert cost(found, 1) == 12


@pytest.mark.parametrize("parts", [{"feature_weight": 0.5}, {"mixup": 0.1}, {"method": "fia"}])
def test_compiled_surrogates_hide_what_these_need(parts):
    with pytest.raises(UsageError, match="compiled surrogates hide their features"):
        Settings(**{"feature_weight": 0.0, "compile": True, **parts})


def test_compiled_surrogates_attack_as_plain_ones_do(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")  # the same machinery, without minutes
    plain = Settings(steps=3, feature_weight=0.0, residual=0.5)
    clean, labels = torch.rand(2, 3, *nets.SIZE), torch.tensor([0, 1])
    found = [
        attack(prepare([nets.classifier(nets.three)], s), clean, labels, ["a", "b"], s).images
        for s in (plain, replace(plain, compile=True))
    ]
    torch.testing.assert_close(*found)


def test_a_compiler_that_fails_is_one_line(monkeypatch):
    def broken(_graph, _inputs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    chosen = Settings(steps=1, feature_weight=0.0, compile=True)
    with pytest.raises(ModelError, match=r"cannot be compiled .*no C\+\+ compiler"):
        attack(
            prepare([nets.classifier(nets.three)], chosen),
            torch.rand(1, 3, *nets.SIZE),
            torch.tensor([0]),
            ["a"],
            chosen,
        )


def test_without_a_budget_every_surrogate_passes_ten_times():
    for name in names.ATTACKS:
        for more, rounds in (((), 10), (("--targeted",), 300), (("--passes", 40), 20)):
            spent = cost(chosen("--attack", name, "--surrogate", NET, *more), 2)
            assert spent <= 2 * rounds
            assert spent > (0 if name == "fgsm" else rounds)


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        ({"other": 1}, 2, "there is no part 'other'"),
        ({"eps": 8}, 2, "there is no part 'eps'"),
        ({"steps": "three"}, 3, "steps: Expected `int`, got `str`"),
        ({"steps": 1.5}, 3, "steps: Expected `int`, got `float`"),
        ({"nesterov": 1}, 3, "nesterov: Expected `bool`, got `int`"),
        ({"transforms": "di"}, 3, "transforms: Expected `array`, got `str`"),
        ({"loss": "cw"}, 3, "loss: Invalid enum value 'cw'"),
        ({"kinds": ["other"]}, 3, "kinds: Invalid enum value 'other'"),
        ({"decay": None}, 3, "decay: Expected `float`, got `null`"),
        ({"transforms": ["other"]}, 2, "transforms are di"),
        ({"kernel": 4}, 2, "kernel must be 0 or odd"),
        ({"step-size": 0}, 2, "step size must be above 0"),
        (b"", 3, "cannot be read"),
        (b"[]", 3, "cannot be read"),
        (b'{"steps": 3', 3, "cannot be read"),
        (b'{"steps": NaN}', 3, "cannot be read"),
        (b'{"loss": "\xff"}', 3, "cannot be read"),
        (b'{"a":' * 100_000, 3, "cannot be read"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_file_is_one_line(content, code, says, config, refused):
    assert says in refused(code, "--config", config(content))


def test_a_missing_file_is_one_line(tmp_path, refused):
    assert "absent.json" in refused(3, "--config", tmp_path / "absent.json")
    assert "cannot be read" in refused(3, "--config", tmp_path)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--transforms", "di,other"), "transforms are"),
        (("--kinds", "other"), "kinds are"),
        (("--kinds", ""), "kinds are"),
        (("--step-size", "nan"), "step size must be"),
        (("--passes", 0), "0 passes are not one for each of 1 surrogates"),
        (("--passes", -1), "-1 passes are not one"),
        (("--passes", 2, "--attack", "svre"), "svre needs 3 passes for one step"),
        (("--passes", 20, "--attack", "mi", "--steps", 21), "cost 21 passes an image"),
        (("--passes", 20, "--attack", "mi", "--samples", 2), "cost 40 passes an image"),
    ],
    ids=str,
)
def test_a_wrong_option_is_one_line(more, says, refused):
    assert says in refused(2, *more)


@pytest.mark.parametrize(
    "more", [("--loss", "cw"), ("--attack", "other"), ("--steps", "x"), ("--passes", "1.5")]
)
def test_what_the_parser_refuses(more, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*BASE, *more])
    assert caught.value.code == 2
    assert more[0] in capsys.readouterr().err


def test_parts_and_passes_are_told_in_the_manifest(tmp_path, capsys, config):
    data = nets.random_folder(tmp_path / "data", each=1)
    more = ("--attack", "mi", "--passes", "6", "--config", config({"steps": 2}), "--kernel", "3")
    argv = [*BASE[:2], data, "--out", tmp_path / "out", *BASE[5:], *more, "--json"]
    assert main([str(a) for a in argv]) == 0
    head = json.loads(capsys.readouterr().out)["head"]
    assert head["attack"] == "mi"
    assert head["passes_per_image"] == 2
    assert (head["settings"]["steps"], head["settings"]["kernel"]) == (2, 3)
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert listed["schema"] == 2
    assert {image["passes"] for image in listed["images"]} == {2}


def test_a_tap_of_a_model_that_is_no_surrogate_is_refused():
    model = nets.classifier(nets.three)
    with pytest.raises(UsageError, match="'other', which is no surrogate"):
        prepare([model], Settings(tap=("other:add",)))
