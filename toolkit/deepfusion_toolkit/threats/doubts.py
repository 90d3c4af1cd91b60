"""What makes the figures of a study doubtful, each as a sentence for people."""

from collections.abc import Iterator, Mapping, Sequence

from deepfusion_toolkit.threats.fixed_draw import FixedRow
from deepfusion_toolkit.threats.result import Clean, Row, SweepPoint

FEW = 100
"""Images below which an interval is wider than ten points."""
WEAK = 0.6
"""An attack that leaves the undefended model more than this share of its accuracy says little."""
BLACK_BOX = ("transfer", "transfer-aware", "query")


def doubts(
    clean: Clean,
    rows: Sequence[Row],
    fixed: Sequence[FixedRow],
    sweep: Sequence[SweepPoint],
    flat: Mapping[str, bool],
    grey: Sequence[str],
    tolerance: float,
    *,
    hardened_only: bool,
) -> list[str]:
    """All doubts, in the order in which they should be read.

    The first five arguments are the study's. ``grey`` names surrogates with the target's own
    weights; differences of accuracy up to ``tolerance``, or of one image, are noise;
    ``hardened_only`` says that the model before hardening is not known.
    """
    return [
        *_masked(rows, fixed, tolerance),
        *_ends(sweep),
        *(f"surrogate {name} is the target itself: its rows are grey-box" for name in grey),
        *_above_clean(rows, tolerance),
        *_weak(rows, hardened_only=hardened_only),
        *(
            f"the white-box curve at {eps}/255 still falls on its last rung: raise --eot, --steps "
            "or --raises"
            for eps, ended in flat.items()
            if not ended
        ),
        *_few(clean, rows),
        *_rates(clean),
        *(doubt for row in fixed for doubt in row.doubts),
    ]


def _masked(rows: Sequence[Row], fixed: Sequence[FixedRow], tolerance: float) -> Iterator[str]:
    """A black-box attacker knows less: where it does more harm, gradients mislead."""
    best: dict[float, Row] = {}
    for row in rows:
        known = best.get(row.eps, row)
        if row.threat == "white-box" and row.robust.value <= known.robust.value:
            best[row.eps] = row
    for white in best.values():
        for black in rows:
            less = white.robust.value - black.robust.value
            noise = max(tolerance, 1 / min(white.images, black.images))
            if black.threat in BLACK_BOX and black.eps == white.eps and less > noise:
                yield (
                    f"black-box beats white-box at {white.eps:g}/255: {black.attack} leaves "
                    f"{black.robust.value:.1%}, {white.attack} {white.robust.value:.1%}. Gradients "
                    "are masked; the white-box figure is no bound"
                )
    for one in fixed:
        at = one.parts.index("square")
        fooled = one.standing[at - 1] - one.standing[at]
        if fooled / one.images > tolerance:
            yield (
                f"Square, which needs no gradient, fools {fooled} images of the fixed draw that "
                f"gradients did not, at {one.eps:g}/255: they are masked"
            )


def _ends(sweep: Sequence[SweepPoint]) -> Iterator[str]:
    for point in sweep:
        if point.threat == "white-box" and point.eps >= 255 and point.robust > 0:  # noqa: PLR2004
            yield (
                f"{point.attack} leaves {point.robust:.1%} even at 255/255, where an image may be "
                "replaced by another: the attack does not work on this defence"
            )


def _above_clean(rows: Sequence[Row], tolerance: float) -> Iterator[str]:
    for row in rows:
        if row.robust.value > row.clean.value + max(tolerance, 1 / row.images):
            yield (
                f"{row.threat}, {row.attack} at {row.eps:g}/255: robust accuracy "
                f"{row.robust.value:.1%} is above clean accuracy {row.clean.value:.1%}"
            )


def _weak(rows: Sequence[Row], *, hardened_only: bool) -> Iterator[str]:
    if hardened_only:
        if any(row.threat == "transfer" for row in rows):
            yield "the model before hardening is not given: are the attacks strong? --undefended"
        return
    for row in rows:
        kept = row.undefended.value / row.undefended_clean.value if row.undefended_clean.hits else 0
        if row.threat == "transfer" and kept > WEAK:
            yield (
                f"{row.attack} at {row.eps:g}/255 leaves the undefended model {kept:.0%} of its "
                "accuracy: too weak to tell a defence by; more --passes, or other surrogates"
            )


def _few(clean: Clean, rows: Sequence[Row]) -> Iterator[str]:
    fewest = min((row.images for row in rows), default=FEW)
    if fewest < FEW:
        yield f"{fewest} images: intervals are wide, raise --limit to {FEW} or more"
    if clean.named_rate is not None and clean.images * clean.named_rate < 3:  # noqa: PLR2004
        yield (
            f"{clean.images} clean images cannot show a false-positive rate of "
            f"{clean.named_rate:.2%}: give {round(3 / clean.named_rate)} or more"
        )


def _rates(clean: Clean) -> Iterator[str]:
    if clean.named_rate is None:
        yield "the plan has no thresholds: nothing is ever flagged"
    elif clean.flagged.low > clean.named_rate:
        yield (
            f"{clean.flagged.value:.2%} of clean images are flagged, the plan names "
            f"{clean.named_rate:.2%}: calibrate on images like these"
        )
