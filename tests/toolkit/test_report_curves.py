"""Curves in pixels: a logarithmic or even axis, shares upwards, labels that do not overlap."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfusion_toolkit.report import Curve, Curves, page
from deepfusion_toolkit.report.curves import (
    BOTTOM,
    LABEL_STEP,
    LEFT,
    LETTER,
    RIGHT,
    TOP,
    WIDTH,
    drawn,
)


def chart(*curves):
    return drawn(Curves([Curve(str(n), points) for n, points in enumerate(curves)], "passes"))


def test_equal_ratios_are_equal_distances():
    made = chart([(20, 0.0), (80, 0.5), (320, 1.0)])
    middle = (LEFT + RIGHT) / 2
    assert made.lines[0].dots == [(LEFT, BOTTOM), (middle, (TOP + BOTTOM) / 2), (RIGHT, TOP)]
    assert made.across == [(LEFT, "20"), (middle, "80"), (RIGHT, "320")]
    assert [text for _, text in made.up] == ["0 %", "25 %", "50 %", "75 %", "100 %"]


def test_even_steps_are_equal_distances_and_not_every_one_has_a_tick():
    points = [(float(n), 0.5) for n in range(1, 42)]
    made = drawn(Curves([Curve("clean", points)], "epoch", even=True))
    assert made.lines[0].dots[20][0] == (LEFT + RIGHT) / 2
    assert [text for _, text in made.across] == [str(n) for n in range(1, 42, 3)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=15))
def test_labels_keep_their_distance_and_stay_inside(ends):
    made = chart(*([(20, 0.5), (80, end)] for end in ends))
    at = sorted(line.at for line in made.lines)
    assert all(b - a >= LABEL_STEP - 0.2 for a, b in pairwise(at))
    assert at[0] >= TOP
    assert at[-1] <= BOTTOM + 5


def test_a_long_label_widens_the_chart():
    long = "deep-fusion on surrogate-1 and surrogate-2"
    section = Curves([Curve(long, [(20, 0.5), (80, 0.5)]), Curve("short", [(20, 0.1)])], "n")
    made = drawn(section)
    assert made.width == pytest.approx(RIGHT + 12 + LETTER * len(long))
    assert f'viewBox="0 0 {made.width} ' in page("t", [section])
    assert chart([(20, 0.0), (80, 0.5)]).width == WIDTH


def test_one_budget_is_a_dot_and_strong_lines_are_on_top():
    section = Curves([Curve("ours", [(20, 0.9)], strong=True), Curve("other", [(20, 0.5)])], "n")
    assert [line.label for line in drawn(section).lines] == ["other", "ours"]
    html = page("t", [section])
    assert html.count("<circle") == 2
    assert "curve strong" in html


@pytest.mark.parametrize("points", [[], [(0, 0.5)], [(20, 1.1)], [(20, -0.1)]])
def test_what_cannot_be_drawn_is_refused(points):
    with pytest.raises(ValueError, match="a chart needs"):
        chart(points)
