"""The page and the rows of the transfer benchmark."""

from collections.abc import Mapping, Sequence

from benchmarks.attack.protocol import Figure
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.names import DEEP_FUSION
from deepfusion_toolkit.report import page, share
from deepfusion_toolkit.report.sections import (
    Bar,
    Bars,
    Cell,
    Curve,
    Curves,
    Section,
    Settings,
    Table,
    Text,
)


def columns(targets: Sequence[Classifier]) -> list[str]:
    """Headings of the table."""
    return [
        *("attack", "passes", "spent", "images", "success %", "95 %", "over all %"),
        *(t.name for t in targets),
    ]


def row(figure: Figure) -> list[Cell]:
    """One method at one budget."""
    mean, everyone = figure.success, figure.success_all
    return [
        figure.method + (" (targeted)" if figure.settings.targeted else ""),
        figure.budget,
        figure.spent,
        figure.images,
        "-" if mean is None else f"{100 * mean.value:.1f}",
        "-" if mean is None else f"{100 * mean.low:.0f} to {100 * mean.high:.0f}",
        "-" if everyone is None else f"{100 * everyone.value:.1f}",
        *(share(t.hits, t.total) for t in figure.targets),
    ]


def make(
    result: Mapping[str, object],
    figures: Sequence[Figure],
    aimed: Sequence[Figure],
    targets: Sequence[Classifier],
) -> str:
    """Curve, table, summary and settings of one run."""
    summary = result["summary"]
    assert isinstance(summary, dict)  # noqa: S101 - made a few lines before
    methods = list(dict.fromkeys(f.method for f in figures))
    sections: list[Section] = [
        Text(
            "Black-box success over images that a target classifies correctly when clean, mean of "
            "the targets. Every attack has the same budget of forward and backward passes per "
            "image, all surrogates counted. Images are rounded to 8 bits before they are judged."
        ),
        Curves(
            [
                Curve(
                    method,
                    [
                        (f.budget, f.success.value)
                        for f in figures
                        if f.method == method and f.success is not None
                    ],
                    strong=method == DEEP_FUSION,
                )
                for method in methods
            ],
            "passes per image",
            heading="Success against passes",
        ),
    ]
    for budget in dict.fromkeys(f.budget for f in figures):
        here = [f for f in figures if f.budget == budget and f.success is not None]
        ranked = sorted(here, key=lambda f: -f.success.value if f.success else 0.0)
        sections.append(
            Bars(
                [
                    Bar(
                        f.method,
                        f.success.value,
                        f.success.low,
                        f.success.high,
                        f.images,
                        "good" if f.method == DEEP_FUSION else "plain",
                    )
                    for f in ranked
                    if f.success is not None
                ],
                heading=f"{budget} passes",
            )
        )
    sections.append(
        Table(columns(targets), [row(f) for f in (*figures, *aimed)], heading="Figures")
    )
    sections.append(Settings({k: "-" if v is None else v for k, v in summary.items()}, "Summary"))
    facts = {k: v for k, v in result.items() if isinstance(v, (str, int, float, list))}
    facts = {k: v for k, v in facts.items() if k not in {"figures", "targeted"}}
    sections.append(Settings(facts))
    surrogates, against = (
        ", ".join(map(str, _listed(result[k]))) for k in ("surrogates", "targets")
    )
    subtitle = f"{surrogates} to {against}, epsilon {result['eps']:g}/255"
    return page("Transfer at matched passes", sections, subtitle=subtitle)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
