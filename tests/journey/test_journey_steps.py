"""Steps are skipped, continued and repeated as they should; only own folders are emptied."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import cli
from benchmarks.demo import images, steps
from benchmarks.demo.journey import Journey, Own, Photographs, Rendered, Settings, predictions
from deepfusion_edge.errors import InputError, UsageError
from deepfusion_toolkit import data
from deepfusion_toolkit.cli import main as deepfusion
from tests.toolkit import attack_nets as nets


@pytest.fixture
def way(tmp_path):
    """Three steps that write down that they ran, and whether they continued."""
    ran = []

    def make(settings=(1, 1, 1), broken=None):
        def step(number):
            out = tmp_path / "out" / f"file{number}"

            def run(resume):
                ran.append(f"{number}{'+' if resume else ''}")
                out.write_text("half" if number == broken else "whole")
                if number == broken:
                    raise steps.Stopped(3)

            return steps.Step(
                f"step{number}", "Do", settings[number], [out], run, resumable=number == 1
            )

        return [step(number) for number in range(3)]

    steps.prepare(tmp_path / "out", fresh=False)
    return make, ran, tmp_path / "out"


def test_finished_steps_are_kept(way):
    make, ran, out = way
    took = steps.follow(make(), out)
    assert set(took) == {"step0", "step1", "step2"}
    steps.follow(make(), out)
    assert ran == ["0", "1", "2"]


def test_a_changed_setting_repeats_its_step_and_all_after_it(way):
    make, ran, out = way
    steps.follow(make(), out)
    steps.follow(make((1, 2, 1)), out)
    assert ran == ["0", "1", "2", "1", "2"]


def test_a_lost_output_is_made_again(way):
    make, ran, out = way
    steps.follow(make(), out)
    (out / "file2").unlink()
    steps.follow(make(), out)
    assert ran == ["0", "1", "2", "2"]


def test_an_interrupted_step_continues_if_it_can(way):
    make, ran, out = way
    for broken in (1, 1, 2):
        with pytest.raises(steps.Stopped):
            steps.follow(make(broken=broken), out)
    steps.follow(make(), out)
    assert ran == ["0", "1", "1+", "1+", "2", "2"]


def test_an_interrupted_step_of_other_settings_starts_anew(way):
    make, ran, out = way
    with pytest.raises(steps.Stopped):
        steps.follow(make(broken=1), out)
    steps.follow(make((1, 5, 1)), out)
    assert ran == ["0", "1", "1", "2"]


def test_only_an_own_folder_is_emptied(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    for fresh in (True, False):
        with pytest.raises(InputError, match="not of this command"):
            steps.prepare(tmp_path / "other", fresh=fresh)
    own = tmp_path / "own"
    steps.prepare(own, fresh=True)
    (own / "data").mkdir()
    (own / "link").symlink_to(tmp_path / "other")
    steps.prepare(own, fresh=False)
    assert (own / "data").exists()
    steps.prepare(own, fresh=True)
    assert [path.name for path in own.iterdir()] == [steps.MARKER]
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_a_changed_file_is_noticed(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"one")
    before = steps.identity(path)
    assert steps.identity(path) == before
    path.write_bytes(b"three")
    assert steps.identity(path) != before
    with pytest.raises(InputError, match="does not exist"):
        steps.identity(tmp_path / "none")


def test_each_command_line_of_the_way_is_one_that_its_program_takes(tmp_path, monkeypatch):
    from deepfusion_export.cli import build_parser as export_parser
    from deepfusion_toolkit.cli import build_parser as toolkit_parser

    parsers = {"deepfusion": toolkit_parser(), "deepfusion-export": export_parser()}
    seen = []

    def check(program, options):
        parsers[program].parse_args(options)
        seen.append(options[0])

    monkeypatch.setattr(steps, "call", check)
    settings = Settings(
        title="",
        images=Rendered(train=4, test=2),
        surrogates=("residual", "fire"),
        target="depthwise",
        held_out=("residual",),
        harden_epochs=0,
        false_positive_rate=0,
        members=4,
    )
    for step in Journey(settings, tmp_path).steps():
        if step.command and "agent" not in step.command:
            step.run(step.resumable)
    assert seen == [
        "data",
        *["train"] * 4,
        *["craft"] * 2,
        *["evaluate"] * 2,
        "harden",
        "keygen",
        "bundle",
    ]


@pytest.mark.parametrize(
    "changed", [{"surrogates": ()}, {"target": "fire"}, {"held_out": ("residual",)}]
)
def test_settings_that_cannot_work_are_refused_at_once(changed, tmp_path):
    given = {"title": "", "images": Own(tmp_path), "surrogates": ("a.pt2",), "target": "b.pt2"}
    with pytest.raises(UsageError):
        Settings(**given | changed)
    Settings(**given)


def test_a_failed_command_gives_its_exit_code(tmp_path, capsys):
    words = ["journey", "--out", tmp_path / "out", "--test-data", tmp_path / "none"]
    words += ["--surrogate", "a.pt2", "--target", "b.pt2"]
    assert cli.main([str(word) for word in words]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_the_exit_code_of_a_command_of_the_way_is_passed_on(tmp_path, capsys):
    folder = _set(tmp_path / "set")
    words = ["journey", "--out", tmp_path / "out", "--test-data", folder]
    words += ["--surrogate", "no-model", "--target", "no-model", "--no-harden"]
    assert cli.main([str(word) for word in words]) == 2
    assert "model 'no-model'" in capsys.readouterr().err.splitlines()[-1]


def test_predictions_are_those_of_the_evaluation(tmp_path):
    spec = "tests.toolkit.attack_nets:three"
    settings = Settings(
        title="", images=Own(tmp_path), surrogates=("a.pt2",), target=spec, held_out=("c.pt2",)
    )
    journey = Journey(settings, tmp_path)
    nets.random_folder(journey.test, each=2)
    for seed, (name, folder) in enumerate(journey.sets.items(), 1):
        nets.random_folder(folder, each=2, seed=seed)
        words = ["evaluate", "--data", folder, "--clean", journey.test, "--target", spec]
        assert deepfusion([str(w) for w in (*words, "--json", journey.evaluation(name))]) == 0
    found = predictions(journey)
    net = nets.classifier(nets.three)
    for name, folder in {"clean": journey.test, **journey.sets}.items():
        images = data.load(folder)
        labels = net(data.stack(images, images.items)).argmax(1).tolist()
        assert found[name] == {
            item.file.removesuffix(".png"): label
            for item, label in zip(images.items, labels, strict=True)
        }


def _set(folder):
    for name in ("a", "b"):
        for number in range(3):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), 10 * number, np.uint8)).save(path)
    return folder


def test_test_images_are_copied_in_their_own_layout(tmp_path):
    images.collect(_set(tmp_path / "set"), tmp_path / "all", limit=None, seed=0)
    assert [i.file for i in data.load(tmp_path / "all").items] == [
        f"{name}/{number}.png" for name in "ab" for number in range(3)
    ]
    images.collect(tmp_path / "set", tmp_path / "some", limit=2, seed=0)
    assert sorted(i.label for i in data.load(tmp_path / "some").items) == [0, 1]
    listed = 'file,label,target\na/0.png,5,\n"b/1.png",6,7\n'
    (tmp_path / "set" / "labels.csv").write_text(listed)
    images.collect(tmp_path / "set", tmp_path / "listed", limit=None, seed=0)
    assert data.load(tmp_path / "listed").items == data.load(tmp_path / "set").items


def test_the_photographs_come_with_their_labels(tmp_path):
    images.photographs(tmp_path / "out")
    found = data.load(tmp_path / "out")
    assert len(found) == 20
    assert found.items[0] == data.Item("imagenet_00_243.png", 243)
    assert found.read(found.items[0]).shape[2] == 3


def test_without_the_package_of_the_photographs_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install --no-deps foolbox"):
        images.photographs(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert images.class_names(1000) is None


def test_imagenet_classes_have_names():
    names = images.class_names(1000)
    assert names is not None
    assert (len(names), names[0], names[999]) == (1000, "tench", "toilet tissue")
    assert images.class_names(10) is None


def test_photographs_are_judged_without_training():
    with pytest.raises(UsageError, match="must be trained"):
        Settings(title="", images=Photographs(), surrogates=("fire",), target="efficientnet-lite0")
