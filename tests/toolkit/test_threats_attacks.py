"""Attacks where what they leave is known: linear nets, a step that hides gradients, erosion."""

import numpy as np
import pytest

from deepfusion_edge.errors import UsageError
from deepfusion_edge.fusion import Threshold, Thresholds
from deepfusion_toolkit.threats import Attackers, Images, Judged, Outcome, Settings, study
from deepfusion_toolkit.threats.outcome import merged, robust, standing
from deepfusion_toolkit.threats.query import square
from deepfusion_toolkit.threats.sweep import sweep
from deepfusion_toolkit.threats.white_box import climb, evade, ladder, pgd
from tests.toolkit import threat_cases as cases

COUNT = 8


def gap():
    """A whole epsilon that no image's distance is near, and which images are beyond it."""
    distances = cases.problem()[3][:-1]
    for eps in range(30, 3, -1):
        if not ((distances > 0.95 * eps) & (distances < 1.03 * eps)).any():
            beyond = [bool(d > eps) for d in distances]
            if 1 < sum(beyond) < COUNT - 2:
                return float(eps), sum(beyond)
    raise AssertionError("no epsilon")


def test_the_ladder_ends_flat_at_exactly_the_images_beyond_epsilon():
    eps, beyond = gap()
    case = cases.case(eot=(1, 2, 4))
    climbed = climb(case, eps)
    assert robust(climbed.outcome, case.images.labels) == pytest.approx(beyond / COUNT)
    assert climbed.flat
    assert climbed.last.eot == 2  # the second rung took nothing, so there was no third
    assert [p.attack for p in climbed.points] == ["PGD", "APGD-CE", "APGD-DLR"] * 2
    left = [p.robust for p in climbed.points]
    assert left == sorted(left, reverse=True)


def test_a_ladder_without_tolerance_climbs_to_its_end():
    case = cases.case(eot=(1, 2), tolerance=0.0, steps=1, raises=1)
    assert [tuple(r) for r in ladder(case.settings)] == [(1, 1, 1), (2, 1, 1), (4, 2, 2)]
    climbed = climb(case, 2.0)
    assert not climbed.flat
    assert len(climbed.points) == 3 + 3 + 6


def test_square_fools_some_by_asking_alone():
    case = cases.case(queries=40)
    left = case.attacked(square(case, 120.0))
    assert robust(left, case.images.labels) < (COUNT - 1) / COUNT


def test_attacked_images_stay_within_epsilon_and_are_the_same_alone():
    case = cases.case(strength=0.4)
    for attack in (pgd(case, ladder(case.settings)[1], 5.0), square(case, 5.0)):
        whole = case.crafted(attack, case.images)
        assert (whole.int() - case.images.pixels.int()).abs().max() <= 5
        alone = case.crafted(attack, case.images.only([3]))
        assert (alone[0].int() - whole[3].int()).abs().max() <= 1  # kernels depend on the batch


def test_the_sweep_doubles_until_nothing_stands():
    eps, _ = gap()
    case = cases.case(eot=(1,))
    rung = ladder(case.settings)[0]
    start = case.attacked(pgd(case, rung, eps))
    points = list(sweep(case, lambda e: pgd(case, rung, e), eps, start, sees=True))
    assert [p.eps for p in points] == [min(255, eps * 2 ** (n + 1)) for n in range(len(points))]
    assert points[-1].robust == 0
    assert all(p.robust > 0 for p in points[:-1])


def outcome(labels, flagged, scores, key="k"):
    judged = Judged(labels, flagged, scores, scores)
    return Outcome(key, judged, list(labels[0]), {n: key.encode() for n in range(len(labels[0]))})


def test_the_worse_of_two_attacks_counts_for_each_image():
    truth, no = [0, 0, 0], [[False] * 3] * 2
    before = outcome([[1, 0, 0], [1, 0, 1]], no, [[1.0] * 3] * 2)
    assert standing(before, truth) == [1, 2]
    after = outcome([[1, 0], [0, 0]], [[False] * 2] * 2, [[2.0] * 2] * 2, "after")
    both = merged(before, after, [1, 2], truth, evading=False)
    assert both.judged.labels == [[1, 1, 0], [1, 0, 1]]  # the third was worse before
    assert both.judged.disagreement == [[1.0, 2.0, 1.0]] * 2
    assert both.pictures == {0: b"k", 1: b"after", 2: b"k"}
    assert both.undefended == [1, 1, 0]


def test_an_evader_prefers_to_be_accepted_then_to_score_low():
    truth = [0, 0, 0]
    before = outcome([[1, 1, 0]], [[True, False, False]], [[5.0, 5.0, 5.0]])
    after = outcome([[1, 0, 0]], [[False, False, False]], [[9.0, 1.0, 1.0]], "after")
    both = merged(before, after, [0, 1, 2], truth, evading=True)
    assert both.judged.feature_variance == [[9.0, 5.0, 1.0]]
    assert both.judged.harmful(truth).tolist() == [[True, True, False]]


def test_evading_lowers_the_scores():
    case = cases.case(strength=0.4, steps=10, members=4)
    rung = ladder(case.settings)[1]
    plain = case.attacked(pgd(case, rung, 30.0))
    low = evade(case, 30.0, rung)
    assert np.mean(low.judged.disagreement) < 0.8 * np.mean(plain.judged.disagreement)


def everything(model, **more):
    """All threats against a linear defence, with a surrogate that is nearly the target."""
    settings = Settings(eps=(gap()[0],), limit=COUNT, **cases.SMALL | {"eot": (1,)} | more)
    defended, plan = cases.defence(model)
    surrogates = [cases.plain(noise=1e-4)]
    threats = ["transfer", "white-box"]
    found = study(
        model,
        defended,
        plan,
        cases.images(),
        range(COUNT),
        Attackers(surrogates),
        threats,
        settings,
    )
    return found.study


def test_hidden_gradients_are_told_and_plain_ones_are_not():
    hidden = everything(cases.plain(cases.Rounding))
    assert any("black-box beats white-box" in doubt for doubt in hidden.warnings)
    assert any("zero gradient" in doubt for doubt in hidden.warnings)
    honest = everything(cases.plain())
    assert not any("masked" in d or "zero gradient" in d for d in honest.warnings)
    by_threat = {row.threat: row.robust.value for row in reversed(honest.rows)}
    assert by_threat["white-box"] == pytest.approx(gap()[1] / COUNT)
    assert honest.fixed[0].robust.hits == gap()[1]


def test_a_surrogate_with_the_targets_weights_is_grey_box():
    model = cases.plain()
    defended, plan = cases.defence(model)
    settings = Settings(limit=COUNT, **cases.SMALL)
    attackers = Attackers([model])
    found = study(
        model, defended, plan, cases.images(), range(COUNT), attackers, ["transfer"], settings
    ).study
    assert any("linear is the target itself" in doubt for doubt in found.warnings)
    assert found.rows[0].undefended_clean.hits == COUNT - 1


def test_a_given_set_is_judged_as_it_is():
    case = cases.case()
    moved = case.crafted(pgd(case, ladder(case.settings)[0], 40.0), case.images.only([2, 5]))
    images = Images(moved, [case.images.labels[n] for n in (2, 5)], ["2.png", "5.png"])
    model = cases.plain()
    defended, plan = cases.defence(model)
    settings = Settings(limit=COUNT, **cases.SMALL)
    attackers = Attackers(sets=[("mine", 40.0, images, [2, 5])])
    found = study(
        model, defended, plan, cases.images(), range(COUNT), attackers, ["transfer"], settings
    ).study
    (row,) = found.rows
    assert (row.attack, row.eps, row.images) == ("set mine", 40.0, 2)
    assert (row.robust.value, row.clean.value, row.undefended.hits) == (0.0, 1.0, 0)


def test_a_flagged_frame_is_wrong_but_does_no_harm():
    always = Threshold(0.0, None)
    flags = Thresholds(always, always, 0.01, 100)
    case = cases.case(thresholds=flags)
    found = case.attacked(pgd(case, ladder(case.settings)[0], 60.0))
    assert found.judged.wrong(case.images.labels).all()
    assert not found.judged.harmful(case.images.labels).any()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"eps": (0.5,)}, "epsilon"),
        ({"limit": 0}, "limit"),
        ({"redraws": 0}, "redraws"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"queries": 0}, "queries"),
        ({"members": (65,)}, "members"),
        ({"eot": (20, 1)}, "eot must grow"),
        ({"eot": ()}, "eot must grow"),
        ({"attack": ("magic",)}, "no attack 'magic'"),
    ],
)
def test_settings_out_of_range(bad, says):
    with pytest.raises(UsageError, match=says):
        Settings(**bad)
