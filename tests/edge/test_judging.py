"""The judge under an adaptive policy, with a fake graph: who runs, what is recorded and told."""

import msgspec
import numpy as np
import pytest

from deepfusion_edge.alerts import Alerts
from deepfusion_edge.bundle.manifest import parse_manifest
from deepfusion_edge.config import AgentConfig, FolderSource, Model
from deepfusion_edge.erosion import sample
from deepfusion_edge.errors import ModelError, TrustError
from deepfusion_edge.fusion import Outputs, Threshold, Thresholds
from deepfusion_edge.judging import Judge
from deepfusion_edge.line import Line
from deepfusion_edge.observer import Everyone, Observer
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.policy import Policy, Trend, Usual
from deepfusion_edge.report.payload import Alert, Decision
from deepfusion_edge.runtime.base import Session
from deepfusion_edge.source.base import Frame

pytestmark = pytest.mark.processor

NEVER = Threshold(suspect=None, reject=None)
OVER_ALL = Thresholds(Threshold(0.5, 0.9), NEVER, 0.01, 1000)
POLICY = Policy(
    start=2,
    thresholds=Thresholds(Threshold(0.4, 0.8), NEVER, 0.01, 1000),
    usual=Usual(0.3, 0.3),
    usual_all=Usual(0.3, 0.3),
    trend=Trend(weight=0.25, rise=0.5, fall=0.25),
)


class Blue(Session):
    """Certain of class 0; feature variance is the image's mean blue; remembers its factors."""

    provider = "FakeProvider"

    def __init__(self):
        self.factors, self.shapes = [], []

    def run(self, image, factors):
        self.factors.append(factors)
        self.shapes.append(image.shape)
        fused = np.array([1.0, 0.0, 0.0], np.float32)
        return Outputs(fused, np.tile(fused, (len(factors), 1)), float(image[0, 2].mean()))


@pytest.fixture
def line(make_bundle, tmp_path):
    bundle = make_bundle(tmp_path / "made", thresholds=OVER_ALL, policy=POLICY)
    return Line(parse_manifest((bundle / "manifest.json").read_bytes()), "ab" * 32, Blue())


@pytest.fixture
def make_judge(line, tmp_path):
    (tmp_path / "state").mkdir()
    source = FolderSource(name="cam", path=str(tmp_path))
    with Outbox(tmp_path / "state", max_events=10**4, max_bytes=2**24, ttl_s=None) as outbox:

        def make(*, observer=None, **model):
            config = AgentConfig(state_dir=str(tmp_path), sources=(source,), model=Model(**model))
            alerts = Alerts(config, outbox, observer=observer)
            return Judge(config, line, outbox, alerts=alerts, observer=observer), outbox

        yield make


def show(judge, blues, source="cam"):
    for n, blue in enumerate(blues):
        image = np.zeros((8, 8, 3), np.uint8)
        image[..., 2] = round(255 * blue)
        judge.take(judge.prepare(Frame(source, f"{n}.png", image, 0.0, n, 10**6)))


def told(outbox):
    events = outbox.peek(10**4)
    decisions = [msgspec.json.decode(e.body, type=Decision) for e in events if e.channel != "alert"]
    alerts = [msgspec.json.decode(e.body, type=Alert) for e in events if e.channel == "alert"]
    return decisions, alerts


def test_sure_frames_cost_two_members_and_the_others_all(make_judge, line):
    judge, outbox = make_judge()
    show(judge, [0.0, 0.35, 0.6, 0.85])
    decisions, alerts = told(outbox)
    assert [d.members for d in decisions] == [2, 4, 4, 2]
    assert [d.state for d in decisions] == ["accept", "accept", "suspect", "reject"]
    assert [len(f) for f in line.session.factors] == [2, 2, 4, 2, 4, 2]
    assert [a.kind for a in alerts] == ["suspect", "reject", "trend"]
    assert judge.summary(sent=0, kept=0).escalated == 2


@pytest.mark.parametrize("seed", [None, 7])
def test_the_record_replays_the_members_of_its_verdict(make_judge, line, seed):
    judge, outbox = make_judge(seed=seed)
    show(judge, [0.0, 0.35])
    decisions, _ = told(outbox)
    few, first, everyone = line.session.factors
    assert np.array_equal(everyone[:2], first)
    for record, used in zip(decisions, (few, everyone), strict=True):
        sites = line.manifest.erosion.sites
        again = sample(sites, seed=record.seed, stream=record.stream, members=record.members)
        assert np.array_equal(again, used)


def test_a_rising_trend_raises_k_and_alerts_once_each_way(make_judge, line):
    judge, outbox = make_judge()
    show(judge, [0.35] * 6 + [0.0] * 12)
    decisions, alerts = told(outbox)
    # 1 - 0.75^3 > 0.5 after three unusual frames; 0.82 * 0.75^5 < 0.25 after five usual ones
    assert [len(f) for f in line.session.factors] == [2, 4] * 3 + [4] * 8 + [2] * 7
    assert [d.members for d in decisions] == [4] * 11 + [2] * 7
    assert [(a.kind, a.frame) for a in alerts] == [("trend", "2.png"), ("trend", "10.png")]
    assert "reached 0.500: all 4 members" in alerts[0].reason
    assert "back at 0.250: 2 members" in alerts[1].reason


def test_each_source_has_its_own_trend(make_judge):
    judge, outbox = make_judge()
    show(judge, [0.35] * 4, source="left")
    show(judge, [0.0] * 2, source="right")
    decisions, alerts = told(outbox)
    assert [d.members for d in decisions if d.source == "right"] == [2, 2]
    assert [a.source for a in alerts] == ["left"]


@pytest.mark.parametrize(("model", "members"), [({"policy": False}, 4), ({"members": 3}, 3)])
def test_the_configuration_fixes_the_members(make_judge, line, model, members, caplog):
    judge, outbox = make_judge(**model)
    judge.warm_up()
    show(judge, [0.0, 0.35, 0.45, 0.35])
    decisions, alerts = told(outbox)
    assert {len(f) for f in line.session.factors} == {members}
    assert [(d.members, d.state) for d in decisions] == [(members, "accept")] * 4
    assert alerts == []
    assert judge.summary(sent=0, kept=0).escalated == 0
    assert ("calibrated over 4 members" in caplog.text) == (members != 4)


def test_both_numbers_of_members_are_warmed_up(make_judge, line):
    make_judge()[0].warm_up()
    assert sorted(len(f) for f in line.session.factors) == [2, 4]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"policy": msgspec.structs.replace(POLICY, start=4)}, "starts with all members or more"),
        ({"thresholds": None}, "policy without thresholds"),
    ],
)
def test_a_manifest_whose_policy_does_not_fit_is_refused(make_bundle, tmp_path, change, rule):
    options = {"thresholds": OVER_ALL, "policy": POLICY} | change
    bundle = make_bundle(tmp_path / "made", **options)
    with pytest.raises(TrustError, match=rule):
        parse_manifest((bundle / "manifest.json").read_bytes())


class Heard(Observer):
    def __init__(self):
        self.all = []

    def judged(self, judged):
        self.all.append(judged)


def test_observers_hear_every_frame_with_its_pixels_and_timings(make_judge):
    heard = Heard()
    judge, outbox = make_judge(observer=heard)
    show(judge, [0.1])
    judge.take(judge.prepare(Frame("cam", "bad.png", b"no image", 0.0, 1, 10**6)))
    good, bad = heard.all
    (decision,), (alert,) = told(outbox)
    assert (good.event, good.verdict.state, good.class_name) == (decision.id, "accept", "red")
    assert good.pixels.shape == (8, 8, 3)
    assert 0 < good.timing.infer_ms < good.timing.total_ms
    assert good.timing.total_ms == pytest.approx(decision.latency_ms, abs=1e-3)
    assert (bad.verdict, bad.pixels, bad.event) == (None, None, None)
    assert bad.problem == alert.reason


def test_an_observer_that_fails_harms_nobody(make_judge, caplog):
    class Broken(Observer):
        def judged(self, judged):
            raise RuntimeError(judged.frame.name)

    heard = Heard()
    judge, _ = make_judge(observer=Everyone([Broken(), heard]))
    show(judge, [0.1, 0.1])
    assert len(heard.all) == 2
    assert "Broken failed to hear of judged" in caplog.text


def test_another_bundle_judges_from_the_next_frame_on(make_judge, make_bundle, tmp_path):
    judge, outbox = make_judge()
    show(judge, [0.1])
    bundle = make_bundle(tmp_path / "next", sequence=2, image=(4, 6))
    manifest = parse_manifest((bundle / "manifest.json").read_bytes())
    prepared = judge.prepare(Frame("cam", "held.png", np.zeros((8, 8, 3), np.uint8), 0.0, 1, 100))
    session = Blue()
    judge.use(Line(manifest, "cd" * 32, session))
    judge.take(prepared)  # it was prepared for 8 x 8
    first, second = told(outbox)[0]
    assert (first.bundle_sequence, second.bundle_sequence) == (1, 2)
    assert (second.bundle, second.members) == ("cd" * 32, manifest.erosion.members)
    assert session.shapes[-1] == (1, 3, 4, 6)


def test_a_bundle_that_does_not_warm_up_does_not_judge(make_judge, line):
    class Broken(Blue):
        def run(self, *_):
            raise ModelError("no", "no")

    judge, outbox = make_judge()
    with pytest.raises(ModelError):
        judge.use(line._replace(digest="cd" * 32, session=Broken()))
    show(judge, [0.1])
    assert [d.bundle for d in told(outbox)[0]] == ["ab" * 32]


def test_members_and_policy_can_be_chosen_between_frames(make_judge):
    judge, outbox = make_judge()
    show(judge, [0.1])
    judge.choose(members=3, adaptive=True)
    show(judge, [0.1])
    judge.choose(members=None, adaptive=False)
    show(judge, [0.1])
    judge.choose(members=None, adaptive=True)
    show(judge, [0.1])
    assert [d.members for d in told(outbox)[0]] == [2, 3, 4, 2]


def test_a_gpu_that_is_required_is_never_replaced_by_the_cpu(make_judge, line):
    class OnCpu(Blue):
        provider = "CPUExecutionProvider"

    judge, _ = make_judge(require_gpu=True, runtime="auto")
    with pytest.raises(ModelError, match="require_gpu"):
        judge.use(line._replace(session=OnCpu(), fallback="no TensorRT"))
    assert judge.setting.line.session.provider == "FakeProvider"
