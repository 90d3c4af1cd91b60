"""Laws of the adaptive policy: who runs and when, and a trend that does not flap."""

from itertools import pairwise
from math import log

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.fusion import Threshold, Thresholds, Verdict
from deepfusion_edge.policy import Level, Policy, Trend, Usual, follow, look

pytestmark = pytest.mark.processor

K = 8
SCORES = st.floats(0, 1)
TREND = Trend(weight=0.1, rise=0.5, fall=0.2)


def make_policy(start, suspect, reject, usual, usual_all=(0.5, 0.5)):
    """Limits of the feature variance, then of feature variance and doubt."""
    never = Threshold(None, None)
    limits = Thresholds(Threshold(suspect, reject), never, 0.01, 1000)
    return Policy(start, limits, Usual(*usual), Usual(*usual_all), TREND)


class Graph:
    """Feature variance and doubt of the first and of all members; remembers who ran."""

    def __init__(self, first, everyone, policy):
        self.scores, self.policy, self.runs = (first, everyone), policy, []

    def __call__(self, members):
        self.runs.append(members)
        variance, doubt = self.scores[members == K]
        limit = self.policy.thresholds.feature_variance
        state = "reject" if variance >= limit.reject else "accept"
        state = "suspect" if state == "accept" and variance >= limit.suspect else state
        return Verdict(0, 1 - doubt, state, variance, 0.0, members)


pairs = st.tuples(SCORES, SCORES)
policies = st.builds(make_policy, st.integers(2, K - 1), SCORES, SCORES, pairs, pairs)


@settings(deadline=None, max_examples=300)
@given(policies, pairs, pairs, st.booleans())
def test_all_members_run_exactly_between_the_limits(policy, first, everyone, raised):
    graph = Graph(first, everyone, policy)
    seen = look(graph, policy, members=K, raised=raised)
    variance, doubt = first
    limits, usual = policy.thresholds.feature_variance, policy.usual
    high = variance >= limits.reject
    low = variance < min(limits.suspect, limits.reject, usual.feature_variance)
    low &= 1 - (1 - doubt) < usual.doubt
    if raised:
        wanted = (K,)
    elif low or high:
        wanted = (policy.start,)
    else:
        wanted = (policy.start, K)
    assert tuple(graph.runs) == seen.runs == wanted
    assert min(seen.runs) >= policy.start
    assert seen.verdict.members == wanted[-1]
    if not raised:
        assert seen.unusual != low
        assert not low or seen.verdict.state == "accept"


@settings(deadline=None, max_examples=100)
@given(policies, pairs, pairs)
def test_while_raised_the_trend_counts_by_the_limits_of_all_members(policy, first, everyone):
    seen = look(Graph(first, everyone, policy), policy, members=K, raised=True)
    assert seen.unusual != policy.usual_all.holds(seen.verdict)


@pytest.mark.parametrize(
    ("state", "variance", "confidence", "usual"),
    [
        ("accept", 0.1, 0.9, True),
        ("accept", 0.2, 0.9, False),
        ("accept", 0.1, 0.75, False),
        ("suspect", 0.1, 0.9, False),
        ("reject", 0.1, 0.9, False),
    ],
)
def test_usual_is_accepted_and_below_both_limits(state, variance, confidence, usual):
    seen = Verdict(0, confidence, state, variance, 0.0, 2)
    assert Usual(feature_variance=0.2, doubt=0.25).holds(seen) == usual


def test_without_a_policy_all_members_run_and_nothing_is_unusual():
    graph = Graph((1.0, 1.0), (1.0, 1.0), make_policy(2, 0.0, 0.0, (0.0, 0.0)))
    assert look(graph, None, members=K, raised=True) == (graph(K), False, (K,))


@st.composite
def trends(draw):
    fall = draw(st.floats(0, 0.8))
    return Trend(draw(st.floats(0.01, 0.3)), draw(st.floats(fall + 0.05, 1)), fall)


@settings(deadline=None, max_examples=200)
@given(trends(), st.lists(st.booleans(), max_size=400))
def test_the_trend_does_not_flap(trend, stream):
    """It takes whole frames, as many as the gap is wide, to rise again and to fall again."""
    levels = [Level()]
    for unusual in stream:
        levels.append(follow(trend, levels[-1], unusual=unusual))
    assert all(0 <= level.share <= 1 for level in levels)
    for before, after in pairwise(levels):
        if after.raised and not before.raised:
            assert after.share >= trend.rise
        if before.raised and not after.raised:
            assert after.share <= trend.fall
    turns = [n for n, (a, b) in enumerate(pairwise(levels)) if a.raised != b.raised]
    keep = log(1 - trend.weight)
    # from rise to fall with nothing unusual, and from fall to rise with everything unusual
    least_raised = log(trend.fall / trend.rise) / keep if trend.fall else 1
    least_fallen = log((1 - trend.rise) / (1 - trend.fall)) / keep if trend.rise < 1 else 1
    for at, (first, second) in enumerate(pairwise(turns)):
        assert second - first >= (least_raised if at % 2 == 0 else least_fallen) - 1e-6


@settings(deadline=None, max_examples=100)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_share_is_the_weighted_mean(stream):
    level = Level()
    for unusual in stream:
        level = follow(TREND, level, unusual=unusual)
    weights = [0.1 * 0.9**n for n in range(len(stream))]
    wanted = sum(w * u for w, u in zip(weights, reversed(stream), strict=True))
    assert level.share == pytest.approx(wanted, abs=1e-12)


def decode(policy, **changes):
    raw = msgspec.to_builtins(policy) | changes
    return msgspec.json.decode(msgspec.json.encode(raw), type=Policy)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"start": 1}, "start"),
        ({"start": 64}, "start"),
        ({"usual": {"feature_variance": -0.1, "doubt": 0.1}}, "usual"),
        ({"usual": {"feature_variance": 0.1}}, "doubt"),
        ({"trend": {"weight": 0.1, "rise": 0.2, "fall": 0.2}}, "not below its rise"),
        ({"trend": {"weight": 0.0, "rise": 0.2, "fall": 0.1}}, "weight"),
        ({"more": 1}, "more"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(changes, rule):
    policy = make_policy(2, 0.2, 0.3, (0.1, 0.1))
    assert decode(policy) == policy
    with pytest.raises(msgspec.ValidationError, match=rule):
        decode(policy, **changes)
