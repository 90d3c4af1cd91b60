"""What a precision costs is measured right, and what costs too much is never signed."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from deepfusion_edge import erosion
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.envelope import load_private_key
from deepfusion_edge.errors import ParityError, UsageError
from deepfusion_edge.fusion import Outputs, Threshold, Thresholds, judge
from deepfusion_edge.policy import Policy, Trend, Usual
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export import bundle, limits, loss
from deepfusion_export.bundle import Lowered
from deepfusion_export.cli import main
from deepfusion_export.frames import Form, reference
from deepfusion_export.loss import Loss, measure
from deepfusion_export.precision import to_fp16
from deepfusion_toolkit.data import folder

DATES = {"created": "2026-01-31T12:00:00Z", "expires": "2036-01-31T12:00:00Z"}
NOW = "2026-06-01T00:00:00Z"
SAME = Loss(100, 0.9, 0.9, 0.1, 0.1, 1.0, 0.0, 0.0, 0.0)


def write(root, count, seed=0, labels=None):
    """Soft noise in four classes, in the layout of a labels.csv."""
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = ["file,label"]
    for at in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
        coarse.resize((20, 16), Image.Resampling.BILINEAR).save(root / f"{at:03}.png")
        rows.append(f"{at:03}.png,{at % 4 if labels is None else labels[at]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folders: 100 labelled images, 100 others, and 10."""
    root = tmp_path_factory.mktemp("images")
    return {
        "data": write(root / "data", 100, seed=1),
        "calibration": write(root / "calibration", 100, seed=2),
        "few": write(root / "few", 10, seed=3),
    }


@pytest.fixture
def data(images):
    return folder.load(images["data"])


def reversed_head(graph):
    """The classes in reverse order: fused probabilities are reversed, nothing else changes."""
    model = onnx.load_from_string(graph)
    head = next(node for node in model.graph.node if node.op_type == "Gemm")
    for tensor in model.graph.initializer:
        if tensor.name in head.input[1:]:
            values = np.ascontiguousarray(numpy_helper.to_array(tensor)[::-1])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model.SerializeToString()


def test_the_same_graph_costs_nothing(case, data):
    found = measure(case.graph, case.graph, case.plan, data)
    assert found.images == 100
    assert found.lost == found.fused == found.members == found.feature_variance == 0
    assert found.agreement == 1
    assert found.accuracy == found.accuracy_fp32


def as_seen(case, data):
    """Label every image as the FP32 graph does, by a route of its own."""
    session = OrtSession(case.graph, threads=1)
    size, items = case.model.size, []
    for item in data.items:
        image = folder.images_as_input(data, [item], *size).numpy()
        stream = erosion.stream_of("loss", item.file)
        factors = erosion.sample(case.plan.sites, seed=3, stream=stream, members=4)
        items.append(replace(item, label=int(session.run(image, factors).fused.argmax())))
    return replace(data, items=tuple(items))


def test_accuracy_is_counted_by_the_label(case, data):
    """Labels as the FP32 graph sees them: right everywhere; with classes reversed: nowhere."""
    labelled = as_seen(case, data)
    found = measure(reversed_head(case.graph), case.graph, case.plan, labelled)
    assert (found.accuracy_fp32, found.accuracy, found.agreement, found.lost) == (1, 0, 0, 1)
    assert found.fused > 0.1
    half = replace(
        labelled,
        items=tuple(
            replace(item, label=3 - item.label) if at % 2 else item
            for at, item in enumerate(labelled.items)
        ),
    )
    found = measure(reversed_head(case.graph), case.graph, case.plan, half)
    assert (found.accuracy_fp32, found.accuracy, found.lost) == (0.5, 0.5, 0)


def test_clean_images_that_become_alarms_count_as_loss(case, data):
    """A threshold at the median of the score: a graph that raises it raises alarms."""
    never = Threshold(None, None)
    limit = Threshold(suspect=0.5, reject=None)
    plan = msgspec.structs.replace(case.plan, thresholds=Thresholds(limit, never, 0.01, 100))
    same = measure(case.graph, case.graph, plan, data)
    assert same.alarms == same.alarms_fp32
    low = msgspec.structs.replace(plan, thresholds=Thresholds(Threshold(0.0, None), never, 0.01, 9))
    assert measure(case.graph, case.graph, low, data).alarms == 1
    assert SAME._replace(alarms=0.3).lost == pytest.approx(0.2)
    assert SAME._replace(accuracy=0.7).lost == pytest.approx(0.2)
    assert SAME._replace(accuracy=0.95, alarms=0.0).lost == 0


def test_factors_are_drawn_anew_for_every_image(case, data):
    draws = [feed["factors"] for feed in loss.calibration(data, case.plan)]
    assert len(draws) == 100
    assert all(draw.shape == (case.plan.members, draws[0].shape[1]) for draw in draws)
    assert len({draw.tobytes() for draw in draws}) == 100
    again = [feed["factors"] for feed in loss.calibration(data, case.plan)]
    assert all((a == b).all() for a, b in zip(draws, again, strict=True))


def test_too_much_loss_is_refused_with_its_figures():
    loss.require_small(SAME._replace(accuracy=0.85), "fp16", 0.06)
    with pytest.raises(ParityError, match=r"int8 loses 0.0500.*0.9000 becomes 0.8500"):
        loss.require_small(SAME._replace(accuracy=0.85), "int8", 0.04)
    with pytest.raises(ParityError, match=r"alarms on these images 0.1000 become 0.2000"):
        loss.require_small(SAME._replace(alarms=0.2), "int8", 0.04)


@pytest.mark.parametrize(
    ("max_loss", "enough"), [(0.5, True), (0.1, True), (0.09, False), (0.01, False), (0.0, False)]
)
def test_too_few_images_to_see_the_loss_are_refused(images, max_loss, enough):
    few = folder.load(images["few"])
    if enough:
        loss.require_measurable(few, max_loss)
        return
    needed = {0.09: 12, 0.01: 100, 0.0: 100}[max_loss]
    with pytest.raises(UsageError, match=f"has 10 images, .* is seen on {needed} or more"):
        loss.require_measurable(few, max_loss)


def test_too_few_images_to_calibrate_are_refused_with_the_number_needed(images, data, tmp_path):
    with pytest.raises(UsageError, match="has 10 images, INT8 needs 100"):
        Lowered("int8", data, folder.load(images["few"]))
    with pytest.raises(UsageError, match="has 1 image, INT8 needs 100"):
        Lowered("int8", data, folder.load(write(tmp_path / "one", 1)))
    Lowered("int8", data, folder.load(images["calibration"]))


def test_the_probes_tolerance_fits_the_precision():
    """At least what the precision usually rounds, as much as it did here, never beyond 0.1."""

    def seen(first, variance):
        members = np.array([[first, 1 - first]], np.float32)
        return Outputs(members[0], members, variance)

    here = seen(0.5, 2.0)
    assert [loss.tolerance(p, here, here) for p in ("fp32", "fp16", "int8")] == [1e-3, 5e-3, 2e-2]
    assert loss.tolerance("int8", seen(0.53, 2.0), here) == pytest.approx(0.03, rel=1e-5)
    assert loss.tolerance("int8", seen(0.5, 2.1), here) == pytest.approx(0.05, rel=1e-5)
    assert loss.tolerance("int8", seen(0.9, 2.0), here) == 0.1


@pytest.fixture
def build(case, files, monkeypatch, tmp_path):
    monkeypatch.setattr(bundle, "to_onnx", lambda *_: case.graph)
    keys = [load_private_key(files.key.read_bytes())]
    out = tmp_path / "out" / "line.dfb"
    out.parent.mkdir()

    def call(lowered, plan=case.plan, step=lambda _text: None, **more):
        return bundle.build(
            [case.model], plan, step=step, keys=keys, id="line", sequence=1, out=out,
            lowered=lowered, **DATES, **more,
        )  # fmt: skip

    call.out = out
    return call


def test_an_fp16_bundle_says_so_and_a_device_installs_it(case, files, data, build, tmp_path):
    manifest = build(Lowered("fp16", data, max_loss=0.05))
    assert (manifest.precision, manifest.tolerance) == ("fp16", 5e-3)
    told = manifest.provenance
    assert told["precision_images"] == 100
    assert told["precision_agreement"] > 0.9
    assert 0 < told["precision_fused"] < 2.5e-3
    assert told["parity_members"] < 1e-5
    installed = store.install(build.out, tmp_path / "state", [files.public], now=NOW)
    assert installed.model_bytes() == to_fp16(case.graph)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_frames_are_prepared_in_fp32_before_a_lowered_network(
    case, precision, files, data, images, build, tmp_path
):
    calibration = folder.load(images["calibration"]) if precision == "int8" else None
    lowered = Lowered(precision, data, calibration, max_loss=0.9)
    manifest = build(lowered, form=Form((40, 50), "BGR"))
    assert (manifest.precision, manifest.preprocess.framed) == (precision, True)
    installed = store.install(build.out, tmp_path / "state", [files.public], now=NOW)
    session = OrtSession(installed.model_bytes(), threads=1)
    frame = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), dtype=np.uint8)
    factors = erosion.sample(case.plan.sites, seed=1, stream=0, members=4)
    wanted = OrtSession(case.graph, threads=1).run(reference(frame, (16, 20), "BGR"), factors)
    found = session.run(frame, factors)
    np.testing.assert_allclose(found.members, wanted.members, atol=0.15)
    assert found.members.tobytes() != wanted.members.tobytes()


def test_an_int8_bundle_records_its_calibration(files, data, images, build, tmp_path):
    manifest = build(Lowered("int8", data, folder.load(images["calibration"]), max_loss=0.9))
    assert manifest.precision == "int8"
    assert manifest.provenance["precision_calibration_images"] == 100
    store.install(build.out, tmp_path / "state", [files.public], now=NOW)


def limited(plan, rate=0.05):
    """The plan as calibrated on FP32, by limits that call every frame of INT8 an alarm."""
    low = Thresholds(Threshold(1e-9, None), Threshold(1e-9, None), rate, 400)
    trend = Trend(1 / 32, 0.5, 0.4)
    policy = Policy(2, low, Usual(1e-9, 1e-9), Usual(1e-9, 1e-9), trend)
    return msgspec.structs.replace(plan, thresholds=low, policy=policy, prefix_share=0.95)


def test_limits_are_set_anew_on_the_int8_graph_and_judged_on_other_images(
    case, data, images, build, tmp_path, files
):
    plan, said = limited(case.plan), []
    lowered = Lowered("int8", data, folder.load(images["calibration"]), max_loss=0.9)
    manifest = build(lowered, plan, said.append)
    assert "setting the scores' limits anew on 50 images" in said
    new, told = manifest.thresholds, manifest.provenance
    assert (new.calibration_images, new.false_positive_rate) == (50, 0.05)
    assert new.feature_variance.suspect > 1e-6
    assert told["precision_images"] == 50
    assert told["precision_alarms_fp32"] == 1.0
    assert told["precision_alarms"] < 0.3
    assert manifest.policy.start == 2
    assert manifest.policy.thresholds.calibration_images == 50
    installed = store.install(build.out, tmp_path / "state", [files.public], now=NOW)
    session = OrtSession(installed.model_bytes(), threads=1)
    first, _ = limits.halves(data)
    feeds = [loss.feed(data, item, plan, "limits") for item in first.items]
    verdicts = [judge(session.run(*one), new) for one in feeds]
    assert sum(verdict.state != "accept" for verdict in verdicts) <= 0.05 * 51
    highest = max(verdict.feature_variance for verdict in verdicts)
    assert new.feature_variance.suspect == pytest.approx(highest, rel=0.5)


def test_too_few_images_keep_the_limits_and_say_so(case, data, images, build):
    plan, said = limited(case.plan, rate=0.01), []
    few = Lowered("int8", data, folder.load(images["calibration"]), max_loss=0.9)
    manifest = build(few, plan, said.append)
    assert manifest.thresholds == plan.thresholds
    assert manifest.policy == plan.policy
    assert any("limits stay those of FP32: half of 100 images" in text for text in said)


def test_fp16_keeps_the_limits(case, data, build):
    plan = limited(case.plan)
    assert build(Lowered("fp16", data, max_loss=0.9), plan).thresholds == plan.thresholds


def test_a_precision_that_loses_too_much_leaves_nothing(case, data, build, monkeypatch):
    monkeypatch.setattr(bundle.precision, "to_fp16", reversed_head)
    with pytest.raises(ParityError, match=r"fp16 loses 1.0000, --max-loss is 0.5"):
        build(Lowered("fp16", as_seen(case, data), max_loss=0.5))
    assert list(build.out.parent.iterdir()) == []


def arguments(files, out, *more):
    words = ["bundle", "--model", files.model, "--plan", files.plan, "--key", files.key]
    return [str(word) for word in (*words, "--out", out, *more)]


def test_the_command_line_measures_and_reports(files, images, tmp_path, capsys):
    out = tmp_path / "line.dfb"
    more = ("--precision", "fp16", "--data", images["data"], "--max-loss", "0.1", "--json")
    assert main(arguments(files, out, *more)) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["precision"] == "fp16"
    assert result["loss"]["images"] == 100
    assert result["loss"]["accuracy"] == pytest.approx(result["loss"]["accuracy_fp32"], abs=0.1)
    assert "fp16 on 100 images: accuracy_fp32" in said.err


def test_options_that_do_not_fit_are_refused(files, images, tmp_path, capsys):
    data, few, other = images["data"], images["few"], images["calibration"]
    cases = [
        (("--precision", "fp16"), 2, "needs --data"),
        (("--precision", "int8", "--data", data), 2, "needs --calibration"),
        (("--data", data), 2, "--data says nothing for --precision fp32"),
        (("--precision", "fp16", "--data", data, "--calibration", other), 2, "says nothing"),
        (("--precision", "int8", "--data", data, "--calibration", data), 2, "the same folder"),
        (("--precision", "fp8"), 2, "--precision"),
        (("--max-loss", "1"), 2, "--max-loss"),
        (("--max-loss", "nan"), 2, "--max-loss"),
        (("--precision", "fp16", "--data", few), 2, "is seen on 100 or more"),
        (("--precision", "int8", "--data", data, "--calibration", few), 2, "INT8 needs 100"),
        (("--precision", "fp16", "--data", tmp_path / "none"), 3, "not a folder"),
    ]
    for more, code, text in cases:
        assert main(arguments(files, tmp_path / "line.dfb", *more)) == code
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        assert text in last
    assert not (tmp_path / "line.dfb").exists()
