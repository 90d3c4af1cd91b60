"""The judge under an adaptive policy, with a fake graph: who runs, what is recorded and told."""

import msgspec
import numpy as np
import pytest

from deepfusion_edge.bundle.manifest import parse_manifest
from deepfusion_edge.config import AgentConfig, FolderSource, Model
from deepfusion_edge.erosion import sample
from deepfusion_edge.errors import TrustError
from deepfusion_edge.fusion import Outputs, Threshold, Thresholds
from deepfusion_edge.judging import Judge, Line
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.policy import Policy, Trend, Usual
from deepfusion_edge.report.payload import Alert, Decision
from deepfusion_edge.runtime.base import Session
from deepfusion_edge.source.base import Frame

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
        self.factors = []

    def run(self, image, factors):
        self.factors.append(factors)
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

        def make(**model):
            config = AgentConfig(state_dir=str(tmp_path), sources=(source,), model=Model(**model))
            return Judge(config, line, outbox), outbox

        yield make


def show(judge, blues, source="cam"):
    for n, blue in enumerate(blues):
        image = np.zeros((8, 8, 3), np.uint8)
        image[..., 2] = round(255 * blue)
        judge.take(Frame(source, f"{n}.png", image, 0.0, n, 10**6))


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
