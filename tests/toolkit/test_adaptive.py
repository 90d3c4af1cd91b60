"""The adaptive policy: chosen to a cost, measured against always-K and the device's loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import InputError, ModelError
from deepfusion_edge.fusion import Verdict, judge
from deepfusion_edge.policy import Level, Trend, follow
from deepfusion_toolkit.adaptive import (
    FALSE_ALARM,
    allowance,
    choose,
    compare,
    highest_clean_trend,
    least_prefix_share,
    measure,
)
from deepfusion_toolkit.calibrate import calibrate
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.defence import Defended, run_members, verdicts
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.surgery import erode, find_sites, members_cost
from deepfusion_toolkit.surgery.graph import trace
from tests.toolkit import attack_nets as nets

K, SHARE, RATE = 8, 0.8, 0.01


def clean(count, members, seed=0):
    """Two correlated scores; over fewer members they are noisier."""
    draw = np.random.default_rng(seed)
    size, noise = draw.standard_normal((2, count))
    other = draw.standard_normal(count) / members
    scores = np.exp(np.stack([size + noise / members, size + other], 1))
    return [Verdict(0, 0.9, "accept", float(v), float(d), members) for v, d in scores]


def test_costs_count_the_shared_part_once():
    assert members_cost(1, 0.3) == 1
    assert members_cost(8, 0.75) == pytest.approx(2.75)
    assert members_cost(8, 0.0) == 8
    assert members_cost(8, 1.0) == 1


def test_on_new_clean_frames_the_goal_and_the_rate_are_kept():
    first, full = clean(2000, 2), clean(2000, K)
    policy = choose(first, full, prefix_share=SHARE, rate=RATE)
    new = clean(20_000, 2, seed=1), clean(20_000, K, seed=1)
    limits = calibrate(full, RATE)
    judged = [rejudged(new[0], policy.thresholds), rejudged(new[1], limits)]
    found = compare(*judged, [0] * 20_000, policy=policy, prefix_share=SHARE)
    allowed = allowance(K, SHARE, goal=1.3)
    assert allowed == pytest.approx(0.1 / 2.4)
    assert found.escalated.value == pytest.approx(allowed / 2, abs=0.008)
    assert found.policy.cost == pytest.approx(1.2 + 2.4 * found.escalated.value)
    assert 1.2 < found.policy.cost < 1.3
    assert found.always.cost == pytest.approx(2.4)
    assert found.policy.flagged.value == pytest.approx(RATE, abs=0.005)
    assert found.policy.accuracy.value == found.always.accuracy.value == 1.0
    assert (found.raised.hits, found.stream) == (0, found.policy)
    assert sum(found.policy.states.values()) == 20_000


def rejudged(found, thresholds):
    """Verdicts by other thresholds, from their scores alone."""
    limits = (thresholds.feature_variance, thresholds.disagreement)
    states = []
    for v in found:
        pairs = list(zip((v.feature_variance, v.disagreement), limits, strict=True))
        reject = any(t.reject is not None and s >= t.reject for s, t in pairs)
        suspect = any(s >= t.suspect for s, t in pairs)
        states.append("reject" if reject else "suspect" if suspect else "accept")
    return [
        Verdict(v.label, v.confidence, s, v.feature_variance, v.disagreement, v.members)
        for v, s in zip(found, states, strict=True)
    ]


def test_an_attacked_stream_raises_k():
    first, full = clean(2000, 2), clean(2000, K)
    policy = choose(first, full, prefix_share=SHARE, rate=RATE)
    odd = [[Verdict(1, 0.5, "suspect", 50.0, 0.0, m)] * 100 for m in (2, K)]
    found = compare(*odd, [0] * 100, policy=policy, prefix_share=SHARE)
    assert found.escalated.hits == 100
    assert found.policy.cost == pytest.approx(1.2 + 2.4)
    assert found.policy.accuracy.hits == 0
    assert found.raised.hits > 80
    assert found.stream.cost == pytest.approx(2.4 + 1.2 * (1 - found.raised.value))


@settings(deadline=None, max_examples=100)
@given(st.integers(3, 32), st.floats(0.001, 0.05), st.floats(1.15, 2))
def test_the_least_prefix_share_is_where_a_policy_begins(members, rate, goal):
    least = least_prefix_share(members, rate=rate, goal=goal)
    assert 0 <= least < 1
    if least > 0:
        assert allowance(members, least, goal=goal) / 2 == pytest.approx(rate)
        assert allowance(members, least - 1e-4, goal=goal) / 2 < rate


def test_what_cannot_be_kept_is_refused():
    first, full = clean(300, 2), clean(300, K)
    with pytest.raises(ModelError, match="members share 50% of the work, 75% are needed"):
        choose(first, full, prefix_share=0.5, rate=RATE)
    with pytest.raises(InputError, match="199 are needed"):
        choose(first[:198], full[:198], prefix_share=SHARE, rate=RATE)


@pytest.mark.parametrize("unusual", [0.01, 0.04, 0.2])
def test_a_clean_trend_stays_below_its_bound(unusual):
    """At a chance of 1 %, so that a simulation sees it; the bound is not far above it."""
    weight, chance = 1 / 32, 0.01
    bound = highest_clean_trend(unusual, weight, chance)
    trend = Trend(weight, bound, 0.0)
    draw, level, shares = np.random.default_rng(0), Level(unusual), []
    for odd in draw.random(60_000) < unusual:
        level = follow(trend, level, unusual=bool(odd))
        shares.append(level.share)
    assert np.mean(np.array(shares) > bound) <= chance
    assert np.quantile(shares, 1 - chance) > 0.65 * bound
    assert highest_clean_trend(unusual, weight, FALSE_ALARM) > bound > unusual


@pytest.fixture(scope="module")
def eroded():
    model = nets.classifier(nets.public)
    sites = find_sites(trace(model.core, model.size), ("activation",), {"activation": 0.4})
    return erode(model, sites)


def test_a_measure_is_what_the_devices_loop_would_do_frame_by_frame(eroded, tmp_path):
    data = folder.load(nets.random_folder(tmp_path / "data", each=30))
    judged = [
        verdicts(eroded, data, members=m, thresholds=None, seed=5, shown=False) for m in (2, 4)
    ]
    policy = choose(*judged, prefix_share=0.9, rate=0.1, goal=1.6)
    plan = Plan(
        schema=1,
        model="",
        classes=("a", "b"),
        height=eroded.size[0],
        width=eroded.size[1],
        sites=eroded.sites,
        members=4,
        prefix_share=0.9,
        thresholds=calibrate(judged[1], 0.1),
        settings={},
        figures={},
        policy=policy,
    )
    found = measure(eroded, plan, data, seed=9)
    cost, hits, both, states, level = 0.0, 0, 0, [], Level()
    raised, model = 0, Defended(eroded)
    for item in data.items:
        image = folder.images_as_input(data, [item], *eroded.size)

        def run(members, image=image, key=item.file):
            return run_members(model, image, seed=9, key=key, members=members)

        first = judge(run(2), policy.thresholds)
        odd = first.feature_variance >= policy.usual.feature_variance
        odd |= first.disagreement >= policy.usual.disagreement
        full = judge(run(4), plan.thresholds)
        cost, seen = cost + 1.1, first
        if odd and first.state != "reject":
            cost, both, seen = cost + 1.3, both + 1, full
        hits += seen.label == item.label
        states.append(seen.state)
        raised += level.raised
        if level.raised:
            odd = full.feature_variance >= policy.usual_all.feature_variance
            odd |= full.disagreement >= policy.usual_all.disagreement
        level = follow(policy.trend, level, unusual=odd)
    assert 0 < both < len(data)
    assert found.policy.cost == pytest.approx(cost / len(data))
    assert (found.policy.accuracy.hits, found.escalated.hits) == (hits, both)
    assert found.policy.states == {s: states.count(s) for s in ("accept", "suspect", "reject")}
    assert found.raised.hits == raised
    with pytest.raises(ModelError, match="no policy"):
        measure(eroded, replace(plan, policy=None), data, seed=9)


def test_the_first_members_are_those_of_the_full_draw(eroded):
    key = stream_of("evaluate", "a")
    many = sample(eroded.sites, seed=1, stream=key, members=8)
    few = Defended(eroded).draw(["a"], seed=1, members=2)[0]
    assert torch.equal(few, torch.from_numpy(many[:2]))
