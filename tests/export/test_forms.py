"""Graphs that take camera frames, or several images a run: from the export to the agent."""

import threading

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from deepfusion_edge import erosion
from deepfusion_edge.agent import run_agent
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.envelope import generate, public_pem
from deepfusion_edge.config import AgentConfig, FolderSource, Model, Mqtt, Run
from deepfusion_edge.errors import ModelError, ParityError, UnreachableError, UsageError
from deepfusion_edge.image import as_input
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report.payload import Alert, Decision
from deepfusion_edge.runtime.engine import Span
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_edge.runtime.trt import try_build
from deepfusion_export import bundle, frames, parity
from deepfusion_export.frames import Form
from deepfusion_export.onnx import FusedGraph
from deepfusion_toolkit.preprocess import BitDepth, Jpeg
from tests.export.conftest import MEMBERS, SIZE, ResNet, make_model, make_plan

DATES = {"created": "2026-01-31T12:00:00Z", "expires": "2126-01-31T12:00:00Z"}
NOW = "2026-06-01T00:00:00Z"
FRAME = (45, 64)
FORMS = {
    "frames": Form(FRAME, "BGR"),
    "several": Form(images=3),
    "several-frames": Form(FRAME, images=3),
}


class Made:
    """A bundle of one form, and the model behind preprocessing stages that round."""

    def __init__(self, folder, form):
        self.form, self.model = form, make_model(ResNet)
        self.plan = msgspec.structs.replace(
            make_plan(self.model), preprocess=(Jpeg(quality=75), BitDepth(bits=6))
        )
        self.out, self.key, self.public = folder / "line.dfb", generate(), folder / "key.pub"
        self.public.write_bytes(public_pem(self.key.public_key()))
        self.manifest = bundle.build(
            [self.model],
            self.plan,
            keys=[self.key],
            id="line",
            sequence=1,
            out=self.out,
            form=form,
            **DATES,
        )
        self.installed = store.install(self.out, folder / "state", [self.public], now=NOW)
        self.session = OrtSession(self.installed.model_bytes(), threads=1)

    def reference(self, image, factors):
        """Run the same defence in torch on an image that was prepared by Pillow, unrounded."""
        defended = bundle.Defended.of([self.model], self.plan)
        given = torch.from_numpy(image)
        with torch.no_grad():
            return FusedGraph(defended)(given, torch.from_numpy(factors))


@pytest.fixture(scope="module", params=FORMS.values(), ids=FORMS)
def made(request, tmp_path_factory):
    return Made(tmp_path_factory.mktemp("form"), request.param)


def pictures(form, count):
    """What cameras give, and what the networks' own input is by another route."""
    draw = np.random.default_rng(3)
    height, width = form.frame or SIZE
    given = draw.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    inputs = [frames.reference(one[None], SIZE, "RGB") for one in given]
    return given, inputs


def test_the_manifest_says_what_the_graph_takes(made):
    said, form = made.manifest.preprocess, made.form
    assert said.framed == (form.frame is not None)
    assert (said.height, said.width) == (form.frame or SIZE)
    assert (said.images or 1, said.color) == (form.images, form.color)
    assert made.session.several == form.several


def test_one_image_gives_what_torch_gives(made):
    given, inputs = pictures(made.form, 1)
    factors = erosion.sample(made.plan.sites, seed=1, stream=0, members=MEMBERS)
    found = made.session.run(as_input(given[0], made.manifest.preprocess), factors)
    fused, members, variance = made.reference(inputs[0], factors)
    # a stage that rounds to whole pixels may tell 1e-7 apart: then a few pixels differ by a step
    np.testing.assert_allclose(found.members, members.numpy(), atol=2e-2)
    assert int(found.fused.argmax()) == int(fused.argmax())
    assert found.feature_variance == pytest.approx(float(variance), rel=0.1)


def test_several_images_each_get_their_own_verdict(made):
    given, _ = pictures(made.form, 3)
    rows = [erosion.sample(made.plan.sites, seed=1, stream=at, members=MEMBERS) for at in range(3)]
    inputs = [as_input(one, made.manifest.preprocess) for one in given]
    if not made.form.several:
        with pytest.raises(ModelError, match="takes one image"):
            made.session.run_several(np.concatenate(inputs), np.stack(rows))
        return
    for count in (1, 2, 3):
        together = made.session.run_several(np.concatenate(inputs[:count]), np.stack(rows[:count]))
        assert len(together) == count
        for outputs, image, factors in zip(together, inputs, rows, strict=False):
            alone = made.session.run(image, factors)
            np.testing.assert_allclose(outputs.members, alone.members, atol=1e-5)
            np.testing.assert_allclose(outputs.fused, alone.fused, atol=1e-5)
            assert outputs.feature_variance == pytest.approx(alone.feature_variance, rel=1e-3)
    with pytest.raises(ModelError, match="does not run"):
        made.session.run_several(np.concatenate(inputs), np.stack(rows[:2]))


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
def test_tensorrt_takes_frames_and_refuses_several_images(made):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is for x86-64 alone")
    graph = made.installed.model_bytes()
    if made.form.several:
        with pytest.raises(ModelError, match="several images a run"):
            try_build(graph, Span(1, MEMBERS, MEMBERS))
    else:
        _, built = try_build(graph, Span(1, MEMBERS, MEMBERS))
        assert built.engine


def test_the_agent_judges_frames_of_the_right_size_and_no_other(made, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    given, inputs = pictures(made.form, 2)
    for at, one in enumerate(given):
        Image.fromarray(one).save(folder / f"{at}.png")
    Image.fromarray(given[0][:-1]).save(folder / "9-short.png")
    state = tmp_path / "state"
    store.install(made.out, state, [made.public], now=NOW)
    config = AgentConfig(
        state_dir=str(state),
        sources=(FolderSource(name="cam", path=str(folder), mode="replay"),),
        mqtt=Mqtt(port=1, client_id="line-1"),
        model=Model(seed=7),
        run=Run(drain_timeout_s=0.0),
    )
    with pytest.raises(UnreachableError):
        run_agent(config, stop=threading.Event())
    with Outbox(state, max_events=100, max_bytes=2**24, ttl_s=None) as box:
        events = box.peek(100)
    alerts = [msgspec.json.decode(e.body, type=Alert) for e in events if e.channel == "alert"]
    told = [msgspec.json.decode(e.body, type=Decision) for e in events if e.channel != "alert"]
    if made.form.frame is None:
        assert (len(told), alerts) == (3, [])
    else:
        assert len(told) == 2
        assert [a.kind for a in alerts] == ["unreadable"]
        assert "frame of 64x44 pixels, the bundle takes 64x45" in alerts[0].reason
    for decision, image in zip(told, inputs, strict=False):
        drawn = {"seed": decision.seed, "stream": decision.stream, "members": MEMBERS}
        rows = erosion.sample(made.plan.sites, **drawn)
        fused, _, _ = made.reference(image, rows)
        assert decision.label == int(fused.argmax())
        assert decision.confidence == pytest.approx(float(fused.max()), abs=2e-2)


def test_the_agent_runs_the_frames_of_several_cameras_one_by_one(made, tmp_path):
    """Each with its own factors; nobody waits until a batch is full."""
    given, inputs = pictures(made.form, 8)
    cameras = []
    for at, one in enumerate(given):
        folder = tmp_path / f"frames-{at % 4}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(one).save(folder / f"{at}.png")
    for at in range(4):
        folder = str(tmp_path / f"frames-{at}")
        cameras.append(FolderSource(name=f"cam-{at}", path=folder, mode="replay"))
    state = tmp_path / "state"
    store.install(made.out, state, [made.public], now=NOW)
    config = AgentConfig(
        state_dir=str(state),
        sources=tuple(cameras),
        mqtt=Mqtt(port=1, client_id="line-1"),
        model=Model(seed=7),
        run=Run(drain_timeout_s=0.0),
    )
    with pytest.raises(UnreachableError):
        run_agent(config, stop=threading.Event())
    with Outbox(state, max_events=100, max_bytes=2**24, ttl_s=None) as box:
        told = [msgspec.json.decode(e.body, type=Decision) for e in box.peek(100)]
    assert sorted((d.source, d.frame) for d in told) == [
        (f"cam-{at}", f"{n}.png") for at in range(4) for n in (at, at + 4)
    ]
    for decision in told:
        drawn = {"seed": decision.seed, "stream": decision.stream, "members": MEMBERS}
        rows = erosion.sample(made.plan.sites, **drawn)
        fused, _, _ = made.reference(inputs[int(decision.frame.split(".")[0])], rows)
        assert decision.confidence == pytest.approx(float(fused.max()), abs=2e-2)
    assert len({decision.stream for decision in told}) == len(told)


def test_a_graph_that_prepares_otherwise_is_refused(case):
    """Swapped channels, or a filter of another kind, never leave the workshop."""
    form = Form(FRAME)
    part = frames.preparation(form, SIZE)
    whole = frames.put_before(case.graph, part)
    assert parity.check_frames(part, whole, case.defended, form, members=2) < 1e-5
    other = form._replace(color="BGR")
    with pytest.raises(ParityError, match="image differs"):
        parity.check_frames(part, whole, case.defended, other, members=2)
    wrong = frames.put_before(case.graph, frames.preparation(other, SIZE))
    with pytest.raises(ParityError, match=r"(members|fused) differs"):
        parity.check_frames(part, wrong, case.defended, form, members=2)


def test_a_graph_that_mixes_images_is_refused(case):
    several = bundle.Defended.of([case.model], case.plan, several=True)
    good = bundle.to_onnx(several, MEMBERS)
    assert parity.check_several(good, case.defended, members=MEMBERS) < 1e-5
    mixed = several.combined
    several.combined = lambda seen: type(one := mixed(seen))(*(values.flip(0) for values in one))
    bad = bundle.to_onnx(several, MEMBERS)
    with pytest.raises(ParityError, match="N = 3"):
        parity.check_several(bad, case.defended, members=MEMBERS)


def test_a_form_without_frames_has_no_preparation():
    with pytest.raises(UsageError, match="no size of frames"):
        frames.preparation(Form(), SIZE)
