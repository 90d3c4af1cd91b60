"""The command line: results as JSON, mistakes as one line with a documented code, no half files."""

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from deepfusion_edge.fusion import RULES
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.cli import build_parser, main
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.harden import Settings
from deepfusion_toolkit.models import load, save
from deepfusion_toolkit.names import FUSIONS
from deepfusion_toolkit.preprocess import spell
from tests.toolkit import attack_nets as nets

THREE, FOUR = "tests.toolkit.attack_nets:three", "tests.toolkit.attack_nets:four"
LEARNER = "tests.toolkit.attack_nets:learner"


@pytest.fixture
def data(tmp_path):
    return nets.random_folder(tmp_path / "data", each=2)


def files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command that must fail; return its one line and what it left behind."""

    def run(code, *argv):
        before = files(tmp_path)
        assert main([str(a) for a in argv]) == code
        streams = capsys.readouterr()
        assert streams.out == ""
        lines = streams.err.splitlines()
        assert [i for i, line in enumerate(lines) if line.startswith("error:")] == [len(lines) - 1]
        assert "Traceback" not in streams.err
        assert "; " in lines[-1]  # what is wrong, then what to do
        assert files(tmp_path) == before
        return lines[-1]

    return run


def craft(data, out, *more, spec=THREE):
    return ("craft", "--data", data, "--surrogate", spec, "--out", out, "--steps", "1", *more)


def harden(data, root, *more, spec=LEARNER):
    out = ("--out", root / "h" / "net.pt2", "--plan", root / "h" / "plan.json")
    return ("harden", "--model", spec, "--data", data, *out, *more)


def evaluate(data, root, *more, spec=THREE):
    pages = ("--json", root / "r.json", "--html", root / "r.html")
    return ("evaluate", "--data", data, "--target", spec, *pages, *more)


def train(data, root, *more):
    return ("train", "--data", data, "--arch", "residual", "--out", root / "t.pt2", *more)


PLAN_ONLY = ("--epochs", "0", "--false-positive-rate", "0")
COMMANDS = pytest.mark.parametrize("command", [craft, evaluate, harden, train])


def called(command, data, root, *more):
    more = (*more, *PLAN_ONLY) if command is harden else more
    return command(data, root / "out" if command is craft else root, *more)


@COMMANDS
def test_a_missing_folder(command, refused, tmp_path):
    line = refused(3, *called(command, tmp_path / "absent", tmp_path))
    assert "absent is not a folder" in line


@COMMANDS
def test_an_empty_class_folder(command, refused, data, tmp_path):
    (data / "c9").mkdir()
    line = refused(3, *called(command, data, tmp_path))
    assert "c9 holds no PNG or JPEG image" in line


@COMMANDS
@pytest.mark.parametrize("keep", [0, 20, 150])
def test_a_corrupt_image(command, keep, refused, data, tmp_path):
    broken = data / "c1" / "1.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    assert "c1/1.png" in refused(3, *called(command, data, tmp_path))


@pytest.mark.parametrize("command", [craft, evaluate, harden])
def test_a_model_of_other_classes(command, refused, data, tmp_path):
    out = tmp_path / "out" if command is craft else tmp_path
    more = ("--epochs", "0") if command is harden else ()
    line = refused(4, *command(data, out, *more, spec=FOUR))
    assert "four has 4 outputs, the data set has 3 classes" in line


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ("resnet", 2, "none of the known forms"),
        ("absent.pt2", 4, "does not exist"),
        ("tests.toolkit.attack_nets:absent", 4, "cannot be imported"),
        ("no.such.module:net", 4, "cannot be imported"),
        ("tests.toolkit.attack_nets:SIDE", 4, "is of type int, not a factory"),
    ],
)
def test_an_unknown_model(spec, code, says, refused, data, tmp_path):
    assert says in refused(code, *craft(data, tmp_path / "out", spec=spec))


def test_a_file_that_is_no_model(refused, data, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04 no archive")
    line = refused(4, *craft(data, tmp_path / "out", spec=str(tmp_path / "net.pt2")))
    assert "net.pt2 is not a .pt2 file" in line


@pytest.mark.parametrize(
    "more",
    [
        ("--eps", "0"),
        ("--eps", "256"),
        ("--eps", "nan"),
        ("--steps", "0"),
        ("--decay", "2"),
        ("--feature-weight", "nan"),
        ("--batch", "0"),
        ("--seed", "-1"),
        ("--limit", "0"),
        ("--limit", "2"),
    ],
)
def test_craft_options_out_of_range(more, refused, data, tmp_path):
    line = refused(2, *craft(data, tmp_path / "out", *more))
    assert more[0] in line


@pytest.mark.parametrize(
    "more",
    [
        ("--eps", "0.5"),
        ("--members", "65"),
        ("--preprocess", "blur"),
        ("--shared", "1"),
        ("--max-clean-drop", "nan"),
        ("--false-positive-rate", "0.6"),
        ("--rate", "0"),
        ("--crafted", "0"),
        ("--epochs", "-1"),
        ("--seed", "9007199254740992"),
    ],
)
def test_harden_options_out_of_range(more, refused, data, tmp_path):
    assert more[0] in refused(2, *harden(data, tmp_path, *more))


def test_what_is_left_out_is_what_hardening_itself_takes():
    words = ["harden", "--model", "m.pt2", "--data", "d", "--out", "o.pt2", "--plan", "p.json"]
    args = vars(build_parser().parse_args(words))
    default = asdict(Settings())
    assert {name: args[name] for name in default} == {**default, "preprocess": []}


def test_the_command_line_knows_the_devices_fusion_rules(data, tmp_path, capsys):
    assert FUSIONS == RULES
    with pytest.raises(SystemExit):
        main([str(word) for word in harden(data, tmp_path, "--fusion", "majority")])
    assert "median" in capsys.readouterr().err


def test_training_needs_a_surrogate(refused, data, tmp_path):
    assert "at least one --surrogate" in refused(2, *harden(data, tmp_path))


def test_an_out_folder_in_use(refused, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    line = refused(3, *craft(data, tmp_path / "out"))
    assert "out is not an empty folder" in line


def test_a_target_that_is_the_true_class(refused, data, tmp_path):
    (data / "labels.csv").write_text("file,label,target\nc0/0.png,0,0\n")
    line = refused(2, *craft(data, tmp_path / "out", "--targeted"))
    assert "target class 0 of c0/0.png" in line


def test_originals_that_are_not_there(refused, data, tmp_path):
    other = nets.random_folder(tmp_path / "other", each=1)
    line = refused(3, *evaluate(data, tmp_path, "--clean", other))
    assert "the original of c0/1.png is missing" in line


def test_a_plan_of_another_model(refused, capsys, tmp_path):
    squares = nets.squares(tmp_path / "squares", each=3)
    quick = (*PLAN_ONLY, "--members", "2", "--max-clean-drop", "1", "--fusion", "median")
    quick += ("--preprocess", "bits:5", "--preprocess", "median")
    assert main([str(a) for a in (*harden(squares, tmp_path, *quick), "--json")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["held_out"] == 9
    plan = tmp_path / "h" / "plan.json"
    read = plans.read(plan, load(str(tmp_path / "h" / "net.pt2")))
    assert read.fusion == "median"
    assert list(map(spell, read.preprocess)) == ["bits:5", "median"]
    line = refused(4, *evaluate(squares, tmp_path, "--plan", plan, spec=THREE))
    assert "made for other weights than three" in line
    both = ("--plan", plan, "--target", THREE)
    assert "is for learner, not for three, three" in refused(4, *evaluate(squares, tmp_path, *both))
    plan.write_text("{}")
    assert "is no erosion plan" in refused(3, *evaluate(squares, tmp_path, "--plan", plan))


def test_sets_that_cannot_be_compared_are_named(refused, data, tmp_path):
    other = nets.random_folder(tmp_path / "other", classes=2)
    line = refused(3, *evaluate(data, tmp_path, "--data", other))
    assert f"{other} has the classes c0, c1, {data} has c0, c1, c2" in line
    listed = nets.random_folder(tmp_path / "listed", classes=1)
    (listed / "labels.csv").write_text("file,label\nc0/0.png,9\n")
    line = refused(4, *evaluate(data, tmp_path, "--data", listed))
    assert f"{listed}: the data set has the label 9" in line
    assert "twice" in refused(2, *evaluate(data, tmp_path, "--data", f"{data}/."))


def test_an_ablation_table_that_is_none(refused, data, tmp_path):
    file = tmp_path / "a.json"
    more = ("--ablation", file)
    assert "a.json cannot be read" in refused(3, *evaluate(data, tmp_path, *more))
    file.write_text('{"title": "t", "columns": ["a", "b"], "rows": [[1]]}')
    assert "row 1 has 1 cells under 2" in refused(3, *evaluate(data, tmp_path, *more))
    for text in ("", "[]", '{"title": "t", "columns": [], "rows": []}', '{"title": NaN}'):
        file.write_text(text)
        assert "a.json is no ablation table" in refused(3, *evaluate(data, tmp_path, *more))
    argv = ("evaluate", "--data", data, "--target", THREE, *more)
    assert "--ablation without --html" in refused(2, *argv)


def test_doubtful_labels_are_warned_of(data, tmp_path, capsys):
    wrong = (load(THREE)(folder.stack(s := folder.load(data), s.items)).argmax(1) + 1) % 3
    lines = [f"{item.file},{label}" for item, label in zip(s.items, wrong.tolist(), strict=True)]
    (data / "labels.csv").write_text("\n".join(["file,label", *lines]))
    assert main([str(a) for a in evaluate(data, tmp_path, "--clean", data)]) == 0
    said = "three has only 0 of 6 clean images of data right"
    assert f"warning: {said}" in capsys.readouterr().err
    assert said in (tmp_path / "r.html").read_text()
    assert said in json.loads((tmp_path / "r.json").read_text())["warnings"][0]


def test_craft_and_evaluate_agree(data, tmp_path, capsys):
    save(nets.three(), nets.SIZE, tmp_path / "net.pt2")
    out, spec = tmp_path / "out", str(tmp_path / "net.pt2")
    argv = [str(a) for a in (*craft(data, out, "--eps", "8", "--json", spec=spec), "--resume")]
    assert main(argv) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["images"] == 6
    assert said["largest_change"] == 8
    assert said["head"]["passes_per_image"] == 1
    assert main([a for a in argv if a != "--json"]) == 0  # complete: only said again
    assert "6 images, none further than 8/255, 1 passes each" in capsys.readouterr().out

    assert main([str(a) for a in evaluate(out, tmp_path, "--clean", data, spec=spec)]) == 0
    assert "attack success of images right when clean" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "r.json").read_text())["sets"]
    (result,) = row["targets"]
    assert result["white_box"]
    assert row["black_box_mean"] is None
    model, pixels = load(spec), folder.load(out)
    predicted = model(folder.stack(pixels, pixels.items)).argmax(1).tolist()
    assert result["predictions"] == predicted
    assert result["success"]["total"] == result["clean_accuracy"]["hits"]
    assert "<html" in (tmp_path / "r.html").read_text()


def test_render_and_train(tmp_path, capsys):
    size = ("--size", "32", "--train", "2", "--test", "1")
    assert main(["data", "render", "--out", str(tmp_path / "line"), *size]) == 0
    assert "images of" in capsys.readouterr().out
    argv = [str(a) for a in train(tmp_path / "line" / "train", tmp_path, "--epochs", "1")]
    assert main([*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert 0 <= said["held_out_accuracy"] <= 1
    assert load(str(tmp_path / "t.pt2")).size == (32, 32)


def test_one_class_cannot_be_trained(refused, tmp_path):
    nets.picture(tmp_path / "data" / "ok" / "0.png", np.full((8, 8, 3), 9))
    assert "images of 1 class" in refused(3, *train(tmp_path / "data", tmp_path))
    assert "--epochs" in refused(2, *train(tmp_path / "data", tmp_path, "--epochs", "0"))


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from deepfusion_toolkit.cli import build_parser; build_parser();"
        "print(sorted({'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_lists_the_exit_codes(capsys):
    assert "exit codes:" in build_parser().format_help()
    with pytest.raises(SystemExit) as caught:
        main(["craft", "--help"])
    assert caught.value.code == 0
    assert "--feature-weight" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["craft"])
    assert caught.value.code == 2
