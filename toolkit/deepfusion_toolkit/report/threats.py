"""The page of ``deepfusion evaluate --threat --html``."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from deepfusion_toolkit import __version__
from deepfusion_toolkit.report import threat_tables as tables
from deepfusion_toolkit.report.html import page
from deepfusion_toolkit.report.pictures import perturbation
from deepfusion_toolkit.report.sections import (
    Curve,
    Curves,
    Figure,
    Figures,
    Picture,
    PictureRow,
    Prediction,
    Section,
    Settings,
    Strip,
    Table,
    Text,
    Warnings,
)
from deepfusion_toolkit.threats.detection import SCORES
from deepfusion_toolkit.threats.outcome import Judged, Outcome
from deepfusion_toolkit.threats.result import ThreatStudy
from deepfusion_toolkit.threats.study import Findings

BINS = 10
MAGNIFIED = 8.0
SMALLEST = 1e-9
"""Scores below this one share a bin."""


def page_of(found: Findings, classes: Sequence[str] | None = None) -> str:
    """What holds, what is noticed, at which cost, and what to doubt."""
    study = found.study
    subtitle = (
        f"{study.target}, fused over {study.members}: {study.images} images attacked, "
        f"{study.redraws} redraws"
    )
    footer = f"deepfusion {__version__}"
    return page("Threats", list(_sections(found, classes)), subtitle=subtitle, footer=footer)


def _sections(found: Findings, classes: Sequence[str] | None) -> Iterator[Section]:
    study = found.study
    if study.warnings:
        yield Warnings(study.warnings)
    yield Figures(list(_figures(study)))
    yield _table(tables.knowledge(study))
    yield _table(tables.held(study))
    yield _table(tables.clean(study))
    if study.fixed:
        yield _table(tables.known_draw(study))
    yield from _curves(study)
    yield _table(tables.detected(study))
    for score in SCORES:
        yield _histogram(found, score)
    if study.adaptive:
        yield _table(tables.policy(study))
    if study.ablation:
        yield _table(tables.forms(study))
    if any(outcome.pictures for outcome in found.outcomes):
        yield _strip(found, classes)
    yield Text(
        "Every attacked image is rounded to 8 bits and judged at the model's input size. No "
        "attacker draws from the judges' stream.",
    )
    yield Settings(study.settings | {"surrogates": ", ".join(study.surrogates) or "-"})


def _table(rows: tables.Rows) -> Table:
    return Table(rows.columns, rows.rows, heading=rows.title, note=rows.note)


def _figures(study: ThreatStudy) -> Iterator[Figure]:
    fused, plain = study.clean.fused.value, study.clean.undefended.value
    yield Figure("clean accuracy, fused", f"{fused:.1%}", f"undefended {plain:.1%}")
    for threat in study.knows:
        rows = [row for row in study.rows if row.threat == threat]
        if rows:
            row = min(rows, key=lambda r: r.robust.value)
            note = f"{row.attack}, {row.eps:g}/255; accepted and wrong {row.harm.value:.1%}"
            yield Figure(f"right under attack: {threat}", f"{row.robust.value:.1%}", note)


def _curves(study: ThreatStudy) -> Iterator[Curves]:
    swept: dict[str, dict[float, float]] = {}
    for point in study.sweep:
        at = swept.setdefault(point.threat, {})
        at[point.eps] = min(point.robust, at.get(point.eps, 1.0))
    if swept:
        yield Curves(
            [Curve(name, sorted(at.items()), name == "white-box") for name, at in swept.items()],
            "epsilon, in 1/255",
            heading="Accuracy against epsilon",
            note="The worst attack of a threat at each epsilon. A white-box curve that does not "
            "end at 0 % means that the attack fails, not that the defence holds.",
        )
    climbed: dict[float, dict[float, float]] = {}
    for step in study.ladder:
        climbed.setdefault(step.eps, {})[float(step.eot)] = step.robust
    if climbed:
        yield Curves(
            [Curve(f"{eps:g}/255", sorted(at.items()), strong=True) for eps, at in climbed.items()],
            "draws that a gradient averages (EoT)",
            heading="White-box accuracy against EoT",
            note="Each rung attacks what the ones before it left standing, with PGD and APGD.",
        )


def _histogram(found: Findings, score: str) -> Curves:
    """Share of images in bins of equal width on a logarithmic axis, clean and attacked."""
    series: dict[str, Judged] = {"clean": found.clean.judged}
    for row, outcome in zip(found.study.rows, found.outcomes, strict=True):
        series[f"{row.threat}: {row.attack}, {row.eps:g}/255"] = outcome.judged
    values = {
        name: np.maximum(np.array(getattr(judged, score)).ravel(), SMALLEST)
        for name, judged in series.items()
    }
    low, high = min(map(np.min, values.values())), max(map(np.max, values.values()))
    marks = np.geomspace(low, max(high, 1.01 * low), 2 * BINS + 1)
    edges, middles = marks[::2].copy(), [float(f"{mark:.2g}") for mark in marks[1::2]]
    edges[0], edges[-1] = edges[0] / 2, edges[-1] * 2  # rounding must lose nobody
    curves = []
    for name, value in values.items():
        shares = np.histogram(value, edges)[0] / len(value)
        curves.append(Curve(name, [*zip(middles, shares.tolist(), strict=True)], name == "clean"))
    return Curves(
        curves,
        score.replace("_", " "),
        heading=f"Scores, clean and attacked: {score.replace('_', ' ')}",
        note="Share of images in each of ten bins. Curves that lie on each other cannot be told "
        "apart by this score.",
    )


def _strip(found: Findings, classes: Sequence[str] | None) -> Strip:
    case, rows = found.case, []
    for n in case.shown:
        original = case.images.pixels[n].permute(1, 2, 0).numpy()
        pictures = [Picture(original, "clean")]
        for row, outcome in zip(found.study.rows, found.outcomes, strict=True):
            if n in outcome.pictures:
                after = np.asarray(Image.open(io.BytesIO(outcome.pictures[n])))
                what = f"{row.threat}, {row.attack}, {row.eps:g}/255"
                said = _said(outcome, n, case.images.labels[n], classes)
                changed = perturbation(original, after, MAGNIFIED)
                pictures += [
                    Picture(changed, f"change x {MAGNIFIED:g}"),
                    Picture(after, what, said),
                ]
        title = f"{case.images.keys[n]}: {_name(case.images.labels[n], classes)}"
        rows.append(PictureRow(title, pictures))
    return Strip(rows, heading="Attacked images")


def _said(outcome: Outcome, n: int, truth: int, classes: Sequence[str] | None) -> list[Prediction]:
    fused = outcome.judged.labels[0][n]
    note = "flagged" if outcome.judged.flagged[0][n] else ""
    plain = outcome.undefended[n]
    return [
        Prediction("undefended", _name(plain, classes), plain == truth),
        Prediction("defence", _name(fused, classes), fused == truth, note),
    ]


def _name(label: int, classes: Sequence[str] | None) -> str:
    return f"class {label}" if classes is None else classes[label]
