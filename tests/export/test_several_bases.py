"""Two networks of different families and input sizes behind all preprocessing stages in one bundle.

From the plans of each to what the device computes.
"""

import json

import numpy as np
import pytest
import torch

from deepfusion_edge import erosion, fusion
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.envelope import generate, private_pem, public_pem
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.cli import main as export
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.cli import main
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.looks import Glance, LookJob
from deepfusion_toolkit.models import load, save
from deepfusion_toolkit.plan import Base, Plan
from deepfusion_toolkit.preprocess import BitDepth, Jpeg, Median, ResizePad
from deepfusion_toolkit.sources import Source
from deepfusion_toolkit.surgery import find_sites
from deepfusion_toolkit.surgery.graph import trace
from deepfusion_toolkit.training import split
from tests.toolkit import attack_nets as nets

STAGES = (Jpeg(quality=60), BitDepth(bits=5), Median(), ResizePad(share=0.9))
CLASSES = ("a_red", "b_green", "c_blue")


def plan_of(model) -> Plan:
    """What hardening writes, without the hours."""
    traced = trace(model.core, model.size)
    sites = find_sites(traced, ("skip", "activation"), {"skip": 0.4, "activation": 0.2})
    return Plan(
        schema=2,
        classes=CLASSES,
        height=model.size[0],
        width=model.size[1],
        bases=(Base.of(model, sites),),
        preprocess=STAGES,
        members=8,
        fusion="mean-probabilities",
        prefix_share=0.0,
        thresholds=None,
        settings={},
        figures={},
    )


class Line:
    """Files of two hardened models, images of three classes, and a key pair."""

    def __init__(self, root):
        self.root, self.data = root, nets.squares(root / "data", each=8)
        self.models, self.plans = [], []
        for make in (nets.learner, nets.three):
            model, plan = (root / f"{make.__name__}{end}" for end in (".pt2", ".json"))
            made = nets.classifier(make)
            save(made.core, made.size, model)
            plans.write(plan_of(load(str(model))), plan)
            self.models.append(model)
            self.plans.append(plan)
        key = generate()
        self.key, self.public, self.bundle = root / "k.pem", root / "k.pub", root / "line.dfb"
        self.key.write_bytes(private_pem(key))
        self.key.chmod(0o600)
        self.public.write_bytes(public_pem(key.public_key()))
        self.joint = root / "joint.json"

    def join(self, *more, models=None, parts=None, data=None):
        words = ["join", "--data", data or self.data, "--out", self.joint]
        for model in self.models if models is None else models:
            words += ["--model", model]
        for plan in self.plans if parts is None else parts:
            words += ["--plan", plan]
        return main([str(word) for word in (*words, "--false-positive-rate", "0.5", *more)])

    def export(self, models, *more):
        words = ["bundle", "--plan", self.joint, "--key", self.key, "--out", self.bundle]
        for model in models:
            words += ["--model", model]
        return export([str(word) for word in (*words, *more)])


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """After ``join`` and ``bundle``."""
    torch.set_num_threads(1)
    line = Line(tmp_path_factory.mktemp("line"))
    assert line.join("--fusion", "trimmed-mean", "--members", "3") == 0
    assert line.export(line.models) == 0
    return line


def test_the_joint_plan_is_calibrated_on_what_hardening_kept_back(line):
    models = [load(str(model)) for model in line.models]
    plan = plans.read(line.joint, *models)
    assert [base.name for base in plan.bases] == ["learner", "three"]
    assert (plan.height, plan.width) == (16, 16)
    assert (plan.members, plan.fusion) == (3, "trimmed-mean")
    assert 0 < plan.prefix_share < 1
    held_out = split(folder.load(line.data)).held_out
    assert plan.figures["held_out"] == plan.thresholds.calibration_images == len(held_out) == 4
    assert 0 <= plan.figures["fused_accuracy"] <= 1


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
def test_tensorrt_takes_bases_that_shrink_the_frame(line, capsys):
    """One of these takes a smaller image, and TensorRT's own Resize cannot smooth."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is for x86-64 alone")
    words = ["engine", line.bundle, "--trust", line.public, "--check"]
    assert export([str(word) for word in words]) == 0
    assert "TensorRT takes it" in capsys.readouterr().out


def test_one_graph_serves_both_models_and_any_number_of_members(line):
    manifest = store.verify(line.bundle, [line.public], now="2027-01-01T00:00:00Z")
    assert (manifest.erosion.bases, manifest.erosion.members) == (2, 3)
    assert manifest.fusion == "trimmed-mean"
    assert manifest.provenance["preprocess"] == "jpeg:60 bits:5 median resize-pad:0.9"
    assert len({site.name for site in manifest.erosion.sites}) == len(manifest.erosion.sites)
    state = line.root / "state"
    installed = store.install(line.bundle, state, [line.public], now="2027-01-01T00:00:00Z")
    session = OrtSession(installed.model_bytes(), threads=1)
    models = [load(str(model)) for model in line.models]
    defended = Defended.of(models, plans.read(line.joint, *models))
    assert defended.preprocess.stages
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16)).astype(np.float32) / 255
    for k in (1, 2, 7, 8):
        factors = erosion.sample(manifest.erosion.sites, seed=1, stream=2, members=k)
        ours = session.run(image, factors)
        with torch.no_grad():
            theirs = defended(torch.from_numpy(image), torch.from_numpy(factors)[None])
        assert ours.members.shape == (2 * k, 3)
        np.testing.assert_allclose(ours.members, theirs.members[0], atol=1e-5)
        np.testing.assert_allclose(ours.fused, theirs.fused[0], atol=1e-5)
        np.testing.assert_allclose(ours.fused, fusion.fuse(ours.members, "trimmed-mean"), atol=1e-5)
        assert ours.feature_variance == pytest.approx(float(theirs.feature_variance), rel=1e-3)


def test_models_in_another_order_are_refused(line, capsys):
    assert line.export(line.models[::-1], "--force") == 4
    assert "has its models in the order learner, three" in capsys.readouterr().err


def test_both_are_evaluated_with_their_plan_each_alone_and_fused(line, tmp_path, capsys):
    target = tmp_path / "study.json"
    words = ["evaluate", "--data", line.data, "--clean", line.data, "--plan", line.joint]
    for model in line.models:
        words += ["--target", model]
    assert main([str(word) for word in (*words, "--json", target)]) == 0
    capsys.readouterr()
    (row,) = json.loads(target.read_text())["sets"]
    names = [result["name"] for result in row["targets"]]
    assert names == ["learner", "three", "learner + three, fused over 2x3"]
    assert row["black_box_mean"]["targets"] == 2

    models = [load(str(model)) for model in line.models]
    job = LookJob(tuple(map(Source.of, models)), plans.read(line.joint, *models), 0)
    look, dataset = job.open("cpu"), folder.load(line.data)
    for number, result in enumerate(row["targets"]):  # as a worker would
        said = look(Glance(number, dataset), None)
        assert [one.label for one in said] == result["predictions"]


def test_what_cannot_be_joined_is_refused_in_one_line(line, tmp_path, capsys):
    other, bare = tmp_path / "other.json", tmp_path / "bare.json"
    text = json.loads(line.plans[1].read_text())
    other.write_text(json.dumps(text | {"classes": ["a_red", "b_green", "d_blue"]}))
    bare.write_text(json.dumps(text | {"preprocess": []}))
    before = line.joint.read_bytes()
    for code, says, settings in (
        (2, "2 models and 1 plans", {"parts": line.plans[:1]}),
        (4, "made for other weights than learner", {"parts": line.plans[::-1]}),
        (4, "a model is given twice", {"models": line.models[:1] * 2, "parts": line.plans[:1] * 2}),
        (4, "a_red, b_green, d_blue", {"parts": [line.plans[0], other]}),
        (4, "three was hardened behind 'nothing'", {"parts": [line.plans[0], bare]}),
        (3, "is no erosion plan", {"parts": [line.plans[0], line.key]}),
    ):
        assert line.join(**settings) == code
        assert says in capsys.readouterr().err.splitlines()[-1]
    for more in (("--members", "65"), ("--false-positive-rate", "0.6")):
        assert line.join(*more) == 2
        assert more[0] in capsys.readouterr().err.splitlines()[-1]
    assert line.joint.read_bytes() == before


def test_images_that_no_model_saw_are_all_used(line, tmp_path, capsys):
    line.joint, before = tmp_path / "unseen.json", line.joint
    try:
        assert line.join("--unseen", "--json") == 0
    finally:
        line.joint = before
    assert json.loads(capsys.readouterr().out)["held_out"] == 24
