"""The policy measured on a batch of images is what the device's loop does frame by frame."""

import pytest
import torch
from msgspec.structs import replace

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import MEAN, judge
from deepfusion_edge.policy import Level, follow
from deepfusion_toolkit.adaptive import measure
from deepfusion_toolkit.calibrate import calibrate
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.defence import Defended, run_members, verdicts
from deepfusion_toolkit.plan import Base, Plan
from deepfusion_toolkit.policy import allowance, limited
from deepfusion_toolkit.surgery import Work, erode, find_sites
from deepfusion_toolkit.surgery.graph import trace
from tests.toolkit import attack_nets as nets


def unusual(verdict, usual):
    doubt = 1 - verdict.confidence
    over = verdict.feature_variance >= usual.feature_variance or doubt >= usual.doubt
    return over or verdict.state != "accept"


@pytest.fixture(scope="module")
def eroded():
    model = nets.classifier(nets.public)
    sites = find_sites(trace(model.core, model.size), ("activation",), {"activation": 0.4})
    return erode(model, sites)


def test_a_measure_is_what_the_devices_loop_would_do_frame_by_frame(eroded, tmp_path):
    data = folder.load(nets.random_folder(tmp_path / "data", each=30))
    judged = [
        verdicts(Defended(eroded), data, members=m, thresholds=None, seed=5, shown=False)
        for m in (2, 4)
    ]
    policy = limited(*judged, start=2, allowed=allowance(2, 4, Work(0.9), 1.6), rate=0.1)
    plan = Plan(
        schema=2,
        classes=("a", "b"),
        height=eroded.size[0],
        width=eroded.size[1],
        bases=(Base("net", "", eroded.sites),),
        preprocess=(),
        members=4,
        fusion=MEAN,
        prefix_share=0.9,
        thresholds=calibrate(judged[1], 0.1),
        settings={},
        figures={},
        policy=policy,
    )
    found = measure(Defended(eroded), plan, data, seed=9)
    cost, hits, both, states, level = 0.0, 0, 0, [], Level()
    raised, model = 0, Defended(eroded)
    for item in data.items:
        image = folder.images_as_input(data, [item], *eroded.size)

        def run(members, image=image, key=item.file):
            return run_members(model, image, seed=9, key=key, members=members)

        first = judge(run(2), policy.thresholds)
        odd = unusual(first, policy.usual)
        full = judge(run(4), plan.thresholds)
        cost, seen = cost + 1.1, first
        if odd and first.state != "reject":
            cost, both, seen = cost + 1.3, both + 1, full
        hits += seen.label == item.label
        states.append(seen.state)
        raised += level.raised
        if level.raised:
            odd = unusual(full, policy.usual_all)
        level = follow(policy.trend, level, unusual=odd)
    assert 0 < both < len(data)
    assert found.policy.cost == pytest.approx(cost / len(data))
    assert (found.policy.accuracy.hits, found.escalated.hits) == (hits, both)
    assert found.policy.states == {s: states.count(s) for s in ("accept", "suspect", "reject")}
    assert found.raised.hits == raised
    with pytest.raises(ModelError, match="no policy"):
        measure(Defended(eroded), replace(plan, policy=None), data, seed=9)


def test_the_first_members_are_those_of_the_full_draw(eroded):
    key = stream_of("evaluate", "a")
    many = sample(eroded.sites, seed=1, stream=key, members=8)
    few = Defended(eroded).draw(["a"], seed=1, members=2)[0]
    assert torch.equal(few, torch.from_numpy(many[:2]))
