"""A policy chosen to a cost: on synthetic scores, where new clean frames are easily had."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.errors import InputError, ModelError
from deepfusion_edge.fusion import Threshold, Thresholds, Verdict
from deepfusion_edge.policy import Level, Trend, follow
from deepfusion_toolkit import policy as policies
from deepfusion_toolkit.adaptive import compare
from deepfusion_toolkit.calibrate import calibrate
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.harden import Settings as Hardening
from deepfusion_toolkit.harden import search
from deepfusion_toolkit.policy import (
    FALSE_ALARM,
    GOAL,
    allowance,
    highest_clean_trend,
    least_prefix_share,
    limited,
    starts,
)
from deepfusion_toolkit.surgery import Work, members_cost

K, SHARED, RATE = 8, Work(0.8), 0.01
NONE = Thresholds(Threshold(None, None), Threshold(None, None), RATE, 0)


def clean(count, members, seed=0, limits=NONE):
    """Correlated scores, noisier over fewer members; the class is wrong where doubt is largest."""
    draw = np.random.default_rng(seed)
    size, noise = draw.standard_normal((2, count))
    spread = np.exp(size + noise / members) / 100
    doubt = 1 / (1 + np.exp(3 - size - draw.standard_normal(count) / members))
    found = []
    for variance, d in zip(spread, doubt, strict=True):
        pairs = ((variance, limits.feature_variance), (d / 2, limits.disagreement))
        state = "accept"
        if any(t.reject is not None and s >= t.reject for s, t in pairs):
            state = "reject"
        elif any(t.suspect is not None and s >= t.suspect for s, t in pairs):
            state = "suspect"
        found.append(Verdict(int(d > 0.5), 1 - d, state, float(variance), d / 2, members))
    return found


def test_costs_count_the_shared_part_once():
    assert members_cost(1, 0.3) == 1
    assert members_cost(8, 0.75) == pytest.approx(2.75)
    assert members_cost(8, 0.0) == 8
    assert members_cost(8, 1.0) == 1


def test_on_new_clean_frames_the_goal_and_the_rate_are_kept():
    full = clean(2000, K)
    allowed = allowance(2, K, SHARED, GOAL)
    assert allowed == pytest.approx(0.1 / 2.4)
    policy = limited(clean(2000, 2), full, start=2, allowed=allowed, rate=RATE)
    new = 20_000
    first = clean(new, 2, seed=1, limits=policy.thresholds)
    found = compare(
        first,
        clean(new, K, seed=1, limits=calibrate(full, RATE)),
        [0] * new,
        policy=policy,
        members=K,
        work=SHARED,
    )
    assert allowed / 2 - 0.01 < found.escalated.value < allowed / 2 + 0.01
    assert found.policy.cost == pytest.approx(1.2 + 2.4 * found.escalated.value)
    assert 1.2 < found.policy.cost < 1.3
    assert found.always.cost == pytest.approx(2.4)
    assert found.policy.flagged.value == pytest.approx(RATE, abs=0.005)
    assert found.policy.accuracy.value == pytest.approx(found.always.accuracy.value, abs=0.01)
    assert (found.raised.hits, found.stream) == (0, found.policy)
    assert sum(found.policy.states.values()) == new


def test_an_attacked_stream_raises_k_and_then_pays_for_one_run():
    policy = limited(clean(2000, 2), clean(2000, K), start=2, allowed=0.04, rate=RATE)
    odd = [[Verdict(1, 0.5, "suspect", 50.0, 0.0, m)] * 100 for m in (2, K)]
    found = compare(*odd, [0] * 100, policy=policy, members=K, work=SHARED)
    assert found.escalated.hits == found.policy.flagged.hits == 100
    assert found.policy.cost == pytest.approx(1.2 + 2.4)
    assert found.policy.accuracy.hits == 0
    assert found.raised.hits > 80
    assert found.stream.cost == pytest.approx(2.4 + 1.2 * (1 - found.raised.value))


@settings(deadline=None, max_examples=100)
@given(st.integers(3, 32), st.floats(0.001, 0.05), st.floats(1.15, 2))
def test_the_least_prefix_share_is_where_a_policy_begins(members, rate, goal):
    least = least_prefix_share(members, rate=rate, goal=goal)
    assert 0 <= least < 1
    assert starts(members, Work(min(1, least + 1e-6)), rate=rate, goal=goal)[0] == 2
    if least > 1e-4:
        with pytest.raises(ModelError, match=r"erode later layers") as caught:
            starts(members, Work(least - 1e-4), rate=rate, goal=goal)
        assert f"they share {least:.1%}" in caught.value.remedy


def test_what_members_share_by_default_leaves_room_for_a_policy():
    default = Hardening()
    beside = Work(default.shared, network=1.04)  # a detector of a small network
    assert starts(max(search.MEMBERS), beside, rate=default.false_positive_rate)
    with pytest.raises(ModelError, match=r"keeps a mean of 1\.3"):
        starts(max(search.MEMBERS), beside._replace(network=1.06), rate=0.01)


def test_what_stands_beside_the_network_is_paid_for():
    work = Work(0.9, network=1.05)
    assert work.cost(2) == pytest.approx(1.05 * 1.1)
    assert allowance(2, 8, work, 1.3) == pytest.approx((1.3 - 1.155) / (1.05 * 1.7))
    with pytest.raises(ModelError) as caught:
        starts(8, Work(0.7, network=1.05), rate=0.01)
    least = least_prefix_share(8, rate=0.01, goal=1.3 / 1.05)
    assert f"they share {least:.1%}" in caught.value.remedy
    assert starts(8, Work(least + 1e-6, network=1.05), rate=0.01) == [2]


def test_the_more_is_shared_the_more_can_begin():
    assert starts(8, Work(0.8), rate=0.01) == [2]
    assert starts(8, Work(0.93), rate=0.01) == [2, 3, 4]
    assert starts(3, Work(1.0), rate=0.01) == [2]
    with pytest.raises(ModelError, match=r"over 8 members keeps a mean of 1\.3"):
        starts(8, Work(0.5), rate=0.01)
    with pytest.raises(ModelError):
        starts(2, Work(1.0), rate=0.01)


@pytest.fixture
def task(monkeypatch):
    """Held-out images, and arguments; two members miss nine of 300, three and four miss five."""

    def judged(_model, _data, *, members, **_):
        wrong = {2: 9, 3: 5, 4: 5}[members]
        return [Verdict(int(n < wrong), 0.9, "accept", float(n), 0.0, members) for n in range(300)]

    monkeypatch.setattr(policies, "verdicts", judged)
    full = [Verdict(0, 0.9, "accept", float(n), 0.0, K) for n in range(300)]
    images = Dataset(Path(), tuple(Item(str(n), 0) for n in range(300)), ("a", "b"), "folders")
    return (None, images, full), {"members": K, "work": Work(0.93), "rate": RATE, "seed": 0}


def test_of_several_the_start_nearest_to_all_members_is_chosen(task):
    policy, accuracy = policies.choose(*task[0], **task[1])
    assert policy.start == 3
    assert accuracy == 295 / 300


def test_a_policy_that_breaks_the_budget_is_doubted(task):
    found = policies.possible(*task[0], **task[1], least=295 / 300)
    assert (found.policy.start, found.accuracy, found.doubts) == (3, 295 / 300, [])
    (doubt,) = policies.possible(*task[0], **task[1], least=0.99).doubts
    assert "98.3% of held-out clean images right" in doubt
    assert "less than the 99.0%" in doubt


def test_where_there_is_no_policy_nothing_is_measured(task):
    found = policies.possible(*task[0], **task[1] | {"work": Work(0.1)})
    assert (found.policy, found.accuracy) == (None, None)
    assert found.doubts[0].startswith("no adaptive policy: ")
    assert policies.possible(*task[0], **task[1] | {"rate": 0.0}) == (None, None, [])


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match="199 are needed"):
        limited(clean(198, 2), clean(198, K), start=2, allowed=0.04, rate=RATE)


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
