"""The transfer benchmark on tiny nets: resumable, budgets kept, margins as defined, a page."""

import json

import pytest
import torch

from benchmarks.attack import protocol, speed
from benchmarks.cli import main
from deepfusion_toolkit import transfer
from deepfusion_toolkit.attacks import Settings, settings_for
from deepfusion_toolkit.statistics import Mean
from tests.toolkit import attack_nets as nets

NETS = "tests.toolkit.attack_nets:"


@pytest.fixture
def measure(tmp_path, capsys):
    data = nets.random_folder(tmp_path / "data")

    def run(*more, state="state.jsonl"):
        words = ["attack", "--json", tmp_path / "out.json", "--html", tmp_path / "out.html"]
        words += [
            "--data",
            data,
            "--surrogate",
            NETS + "three",
            "--surrogate",
            NETS + "other_three",
        ]
        words += ["--target", NETS + "public", "--state", tmp_path / state, "--batch", 4]
        words += ["--targeted-steps", 3, "--targeted-images", 2, "--rounds", 1, *more]
        code = main([str(word) for word in words])
        assert code == 0, capsys.readouterr().err
        return json.loads((tmp_path / "out.json").read_text())

    return run


def test_every_figure_is_there_and_within_its_budget(measure, tmp_path):
    found = measure("--budget", "20:9", "--budget", "40:5")
    assert found["summary"].keys() == {
        "deep_fusion_minus_ens_points",
        "deep_fusion_minus_best_baseline_points",
        "targeted_over_logit",
        "throughput_over_floor",
        "peak_memory_over_bare",
        "n_images",
        "n_images_targeted",
    }
    assert found["summary"]["n_images"] == 5
    assert found["summary"]["throughput_over_floor"] > 0
    methods = [f["method"] for f in found["figures"] if f["budget"] == 20]
    assert len(set(methods)) == len(methods) == 13
    for figure in found["figures"]:
        assert figure["budget"] / 2 < figure["spent"] <= figure["budget"]
        assert figure["images"] == {20: 9, 40: 5}[figure["budget"]]
    assert [f["method"] for f in found["targeted"]] == ["deep-fusion", "logit"]
    assert all(f["settings"]["targeted"] for f in found["targeted"])
    page = (tmp_path / "out.html").read_text()
    assert page.count("<polyline") == 13
    assert "http:" not in page
    assert "https:" not in page


def test_a_second_run_makes_nothing_again(measure, tmp_path, monkeypatch):
    few = ("--budget", "20:5", "--methods", "deep-fusion,mi", "--rounds", "0")
    first = measure(*few)
    journal = tmp_path / "state.jsonl"
    journal.write_bytes(journal.read_bytes()[:-3])  # the power went in the last line
    calls = []
    attack = transfer.attack
    monkeypatch.setattr(transfer, "attack", lambda *a: (calls.append(a[3]), attack(*a))[1])
    assert measure(*few) == first
    assert len(calls) == 1
    monkeypatch.setattr(transfer, "attack", None)  # would fail if called
    assert measure(*few) == first


def test_a_changed_image_is_attacked_again(measure, tmp_path, monkeypatch):
    few = ("--budget", "20:9", "--methods", "mi", "--rounds", "0", "--targeted-images", "0")
    measure(*few)
    nets.random_folder(tmp_path / "data", seed=5)
    calls = []
    attack = transfer.attack
    monkeypatch.setattr(transfer, "attack", lambda *a: (calls.append(a[3]), attack(*a))[1])
    measure(*few)
    assert len(calls) == 3  # nine images in batches of four


def figure(method, budget, value, images=9):
    mean = Mean(1, images, value, value, value)
    settings = settings_for(method, passes=budget, surrogates=2)
    return protocol.Figure(method, budget, budget, images, mean, mean, [], settings)


def test_margins_are_the_smallest_over_budgets():
    made = [
        *(figure("deep-fusion", 20, 0.9), figure("mi", 20, 0.5), figure("bsr", 20, 0.8)),
        *(figure("deep-fusion", 80, 0.9, 4), figure("mi", 80, 0.6, 4), figure("bsr", 80, 0.85, 4)),
    ]
    found = protocol.summary(made, [figure("deep-fusion", 60, 0.6), figure("logit", 60, 0.2)])
    assert found["deep_fusion_minus_ens_points"] == pytest.approx(30)
    assert found["deep_fusion_minus_best_baseline_points"] == pytest.approx(5)
    assert found["targeted_over_logit"] == pytest.approx(3)
    assert found["n_images"] == 4
    assert protocol.summary(made, [])["targeted_over_logit"] is None


def test_a_bare_pass_is_one_forward_and_one_backward(monkeypatch):
    from deepfusion_toolkit.attacks import prepare

    models = [nets.classifier(nets.three), nets.classifier(nets.other_three)]
    prepared = prepare(models, Settings(erosion=0, feature_weight=0))
    calls = []
    for index, model in enumerate(prepared):
        model.register_forward_hook(lambda *_, at=index: calls.append(at))
    grad = torch.autograd.grad
    backward = []
    monkeypatch.setattr(torch.autograd, "grad", lambda *a: (backward.append(1), grad(*a))[1])
    speed.bare(prepared, torch.rand(2, 3, *nets.SIZE), 5)
    assert calls == [0, 1, 0, 1, 0]
    assert len(backward) == 5


@pytest.mark.parametrize("text", ["x", "20:x", "0", "-5", "20:0"])
def test_a_budget_that_is_none_is_refused(text, capsys):
    code = main(["attack", "--json", "x.json", "--budget", text])
    assert code == 2
    assert "budget" in capsys.readouterr().err
