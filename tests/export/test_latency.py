"""Ratios are computed from the rounds they claim, against a plain model that is the model."""

import itertools
import json

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import latency
from benchmarks.cli import main
from benchmarks.plain import without_erosion
from deepfusion_edge import erosion
from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.cli import main as export
from deepfusion_toolkit.timing import interleaved


def test_known_times_give_known_ratios():
    now = itertools.count()
    ticks = {"plain": 2, "slow": 6}

    def variant(name):
        return lambda: [next(now) for _ in range(ticks[name] - 1)]

    calls = {name: variant(name) for name in ticks}
    found = interleaved(calls, base="plain", rounds=5, clock=lambda: next(now) * 1_000_000)
    assert found["plain"] == (2.0, 2.0, 1.0, 1.0)
    assert found["slow"] == (6.0, 6.0, 3.0, 3.0)


def test_rounds_are_interleaved_and_begin_in_turn():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    interleaved(calls, base="a", rounds=3, warm_up=0)
    assert order == list("abbaab")


def test_taking_erosion_out_gives_the_model(case):
    graph = without_erosion(case.graph, erosion.width(case.plan.sites))
    nodes = onnx.load_from_string(graph).graph.node
    assert not {"Split", "Unsqueeze"} & {n.op_type for n in nodes if "factors" in n.input}
    image = np.random.default_rng(1).random((1, 3, *case.model.size), np.float32)
    plain = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (members,) = plain.run(None, {"image": image})
    clean = OrtSession(case.graph).run(image, erosion.identity(case.plan.sites, 1))
    np.testing.assert_allclose(members, clean.members, atol=1e-6)


def test_a_graph_without_factors_is_refused(case):
    graph = without_erosion(case.graph, erosion.width(case.plan.sites))
    with pytest.raises(ModelError, match="nothing by factors"):
        without_erosion(graph, 1)


@pytest.fixture(scope="module")
def bundle(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "line.dfb"
    words = ("--model", files.model, "--plan", files.plan, "--key", files.key, "--out", out)
    assert export(["bundle", *map(str, words)]) == 0
    return out


@pytest.mark.parametrize("source", ["bundle", "model"])
def test_latency_of_a_bundle(bundle, files, tmp_path, capsys, source):
    target = tmp_path / "latency.json"
    argv = ["latency", "--bundle", str(bundle), "--json", str(target), "--rounds", "4"]
    argv += ["--model", str(files.model), "--trust", str(files.public)] * (source == "model")
    assert main(argv) == 0
    result = json.loads(target.read_text())
    assert result["rounds"] == 4
    assert result["verified"] == (source == "model")
    assert result["variants"]["plain model"]["ratio"] == 1.0
    names = {f"{k} members, one graph" for k in latency.MEMBERS}
    names |= {f"{k} runs of one member" for k in (4, 8, 16)}
    assert names < set(result["variants"])
    floor = result["variants"]["8 members, one graph"]["arithmetic_floor"]
    assert floor == pytest.approx(1 + 7 * (1 - result["prefix_share"]), abs=1e-4)
    assert "8 members, one graph" in capsys.readouterr().out


def test_another_model_is_refused(bundle, tmp_path, capsys, monkeypatch):
    """A ratio to something else than the bundle's own model would mean nothing."""
    monkeypatch.setattr(latency, "_plain_session", lambda *_: lambda _image: np.zeros(4))
    argv = ["latency", "--bundle", str(bundle), "--json", str(tmp_path / "x.json")]
    assert main(argv) == 4
    assert "differs by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_line(files, tmp_path, capsys):
    target = str(tmp_path / "x.json")
    for words, code in (
        (["--bundle", str(tmp_path / "none.dfb")], 3),
        (["--bundle", str(files.plan)], 5),
        (["--bundle", "x", "--rounds", "0"], 2),
    ):
        assert main(["latency", *words, "--json", target]) == code
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
