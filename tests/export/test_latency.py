"""Ratios are computed from the rounds they claim, against a plain model that is the model."""

import itertools
import json

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.cli import main
from benchmarks.latency import compare, measure, page, stages, subjects
from benchmarks.latency.footprint import Footprint
from benchmarks.latency.measure import PLAIN, one_by_one, together
from benchmarks.latency.plain import without_erosion
from deepfusion_edge import erosion
from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.cli import main as export
from deepfusion_toolkit import models
from deepfusion_toolkit.harden.places import BASE
from deepfusion_toolkit.surgery import find_sites, share_before
from deepfusion_toolkit.surgery.graph import trace
from deepfusion_toolkit.surgery.rows import shape_of
from deepfusion_toolkit.surgery.sites import locate
from deepfusion_toolkit.timing import Timing, interleaved


def test_known_times_give_known_ratios():
    now = itertools.count()
    ticks = {"plain": 2, "slow": 6}

    def variant(name):
        return lambda: [next(now) for _ in range(ticks[name] - 1)]

    calls = {name: variant(name) for name in ticks}
    found = interleaved(calls, base="plain", rounds=5, clock=lambda: next(now) * 1_000_000)
    assert found["plain"] == Timing(2.0, 2.0, 1.0, 1.0, 2.0)
    assert found["slow"] == Timing(6.0, 6.0, 3.0, 3.0, 6.0)


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
    target, html, text = (tmp_path / f"latency.{end}" for end in ("json", "html", "md"))
    argv = ["latency", "--bundle", str(bundle), "--json", str(target), "--rounds", "4"]
    argv += ["--members", "1,2,16", "--html", str(html), "--markdown", str(text)]
    argv += ["--plain", str(files.model), "--trust", str(files.public)] * (source == "model")
    assert main(argv) == 0
    result = json.loads(target.read_text())
    assert result["rounds"] == 4
    (run,) = result["runs"]
    assert run["verified"] == (source == "model")
    names = {together(k) for k in (1, 2, 8, 16)} | {one_by_one(4), one_by_one(8)}
    assert names | {PLAIN, "drawing 8 rows of factors"} == set(run["variants"])
    timings = {name: Timing(**timing) for name, timing in run["variants"].items()}
    assert timings[PLAIN].ratio == 1.0
    assert all(t.median_ms <= t.p95_ms <= t.p99_ms for t in timings.values())
    floor = run["floors"]["8"]
    assert floor == pytest.approx(1 + 7 * (1 - run["prefix_share"]))
    assert run["predicted"]["8"] >= floor
    figures = result["summary"]
    assert list(figures["k8_over_plain"].values()) == [timings[together(8)].ratio]
    assert list(figures["k8_over_floor"].values()) == [timings[together(8)].ratio / floor]
    assert figures["architectures_ok"] is figures["architectures_tried"] is None
    assert run["stages"]["preprocess_ms"] > 0
    assert run["cold"]["first_answer_s"] > 0
    assert run["cold"]["peak_memory_mib"] is None or run["cold"]["peak_memory_mib"] > 10
    assert "8 members, one graph" in capsys.readouterr().out
    assert "8 members, one graph" in text.read_text()
    assert "8 members, one graph" in html.read_text()


@pytest.fixture(scope="module")
def subject(bundle):
    return subjects.of_bundle(bundle, [], None)


def test_the_parts_of_a_graph_are_its_own(subject):
    """The common part gives what the whole takes from it; members alone say what the whole says."""
    image = subjects.image_of(subject)
    factors = erosion.sample(subject.sites, seed=0, stream=0, members=3)
    whole = OrtSession(subject.graph).run(image, factors)
    (members,) = measure.session_of(stages.without_scores(subject.graph), 1)(
        image=image, factors=factors
    )
    np.testing.assert_allclose(members, whole.members, atol=1e-6)
    common = onnx.load_from_string(stages.prefix(subject.graph))
    assert [value.name for value in common.graph.input] == ["image"]
    inside = onnx.load_from_string(subject.graph)
    taken = {value.name for value in common.graph.output}
    own = {"factors"}
    for node in inside.graph.node:
        if own & set(node.input):
            own.update(node.output)
            assert {n for n in node.input if n not in own} <= taken | {
                i.name for i in inside.graph.initializer
            } | {""} | _constants(inside)
    assert 0 < len(common.graph.node) < len(inside.graph.node)


def _constants(model):
    """What follows from neither input."""
    free = {"image", "factors"}
    for node in model.graph.node:
        if free & set(node.input):
            free.update(node.output)
    return {name for node in model.graph.node for name in node.output if name not in free}


def test_members_that_begin_at_the_image_have_nothing_in_common():
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 2])
    factors = onnx.helper.make_tensor_value_info("factors", onnx.TensorProto.FLOAT, ["K", 2])
    members = onnx.helper.make_tensor_value_info("members", onnx.TensorProto.FLOAT, ["K", 2])
    node = onnx.helper.make_node("Mul", ["image", "factors"], ["members"])
    graph = onnx.helper.make_graph([node], "g", [image, factors], [members])
    assert stages.prefix(onnx.helper.make_model(graph).SerializeToString()) is None


def test_the_last_stage_is_where_maps_are_smallest():
    model = models.load("efficientnet-lite0")
    sites = subjects.last_stage(model)
    traced = trace(model.core, model.size)
    shapes = [shape_of(found.node) for found in locate(traced, sites)]
    assert {tuple(shape[2:]) for shape in shapes} == {(7, 7)}
    every = find_sites(traced, ("skip", "activation"), BASE)
    before = locate(traced, every[: len(every) - len(sites)])
    assert shape_of(before[-1].node)[2:] != (7, 7)


def test_sites_of_other_kinds_are_eroded_where_they_are_asked_for():
    model = models.load("efficientnet-lite0")
    for sites in (subjects.last_stage(model, ["norm"]), subjects.later_than(model, 0.5, ["norm"])):
        assert {site.kind for site in sites} == {"norm"}
    assert share_before(trace(model.core, model.size), sites) >= 0.5


@pytest.mark.parametrize("text", ["", "norms", "skip,,norm"])
def test_kinds_that_do_not_exist_are_refused(text, capsys):
    assert main(["latency", "--json", "x.json", "--kinds", text]) == 2
    assert "is not a list of skip, activation, norm" in capsys.readouterr().err


def test_a_row_shows_what_was_predicted_beside_what_was_measured():
    timing = Timing(1.0, 1.0, 2.0, 2.0, 1.0)
    run = measure.Run(
        *("a", "a", False, "p", 1, (8, 8), 0.5, 1, {together(8): timing}, {8: 4.5}, {8: 5.25}),
        measure.Stages(1.0, 0.1, 0.2, 0.3),
        Footprint(0.1, 0.2, None),
    )
    found = page.rows(run)
    assert {len(row) for row in found} == {len(page.COLUMNS)}
    assert found[0][-2:] == ["4.500", "5.250"]


def test_two_results_are_compared_by_their_ratios(tmp_path):
    def run(ratio):
        timing = Timing(1.0, 1.0, ratio, ratio, 1.0)
        return {"subject": "a", "provider": "p", "threads": 1, "variants": {"x": timing}}

    path = tmp_path / "old.json"
    path.write_bytes(msgspec.json.encode({"schema": 2, "runs": [run(2.0)]}))
    before = compare.read(path)
    now = msgspec.convert(run(3.0), compare._Run)
    assert compare.rows(before, [now]) == [["a", "p", 1, "x", "2.000", "3.000", "+50.0"]]
    now.subject = "b"
    assert compare.rows(before, [now]) == []


def test_another_model_is_refused(bundle, tmp_path, capsys, monkeypatch):
    """A ratio to something else than the bundle's own model would mean nothing."""
    monkeypatch.setattr(measure, "session_of", lambda *_: lambda **_feeds: [np.zeros(4)])
    argv = ["latency", "--bundle", str(bundle), "--json", str(tmp_path / "x.json")]
    assert main(argv) == 4
    assert "differs by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_line(files, tmp_path, capsys):
    target = str(tmp_path / "x.json")
    old = tmp_path / "old.json"
    old.write_text("{}")
    for words, code in (
        (["--bundle", str(tmp_path / "none.dfb")], 3),
        (["--bundle", str(files.plan)], 5),
        (["--bundle", "x", "--rounds", "0"], 2),
        (["--bundle", "x", "--members", "0"], 2),
        (["--bundle", "x", "--members", "many"], 2),
        (["--bundle", "x", "--frame", "12"], 2),
        (["--bundle", "x", "--threads", "-1"], 2),
        (["--bundle", "x", "--bundle", "y", "--plain", "z"], 2),
        (["--bundle", "x", "--compare", str(old)], 3),
        (["--bundle", "x", "--threats", str(old)], 3),
        (["--bundle", "x", "--coverage", str(tmp_path / "none.json")], 3),
        (["--model", "timm:no_such_net"], 4),
    ):
        assert main(["latency", *words, "--json", target]) == code, words
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [old]
