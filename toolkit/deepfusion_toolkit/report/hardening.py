"""What ``deepfusion harden`` shows: figures and the Pareto table; curves and pictures on a page."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from deepfusion_edge.image import Pixels
from deepfusion_toolkit import __version__
from deepfusion_toolkit.calibrate import no_rejection
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.harden.checkpoint import Epoch
from deepfusion_toolkit.harden.noticing import Round
from deepfusion_toolkit.harden.result import Result, Sample, line_of
from deepfusion_toolkit.report.html import page
from deepfusion_toolkit.report.pictures import perturbation
from deepfusion_toolkit.report.sections import (
    Cell,
    Curve,
    Curves,
    Figure,
    Figures,
    Picture,
    PictureRow,
    Section,
    Settings,
    Strip,
    Table,
    Warnings,
)
from deepfusion_toolkit.report.terminal import table

MAGNIFIED = 8.0
COLUMNS = ("shared work", "strength", "K", "cost", "clean", "robust", "AUROC", "")
NOTE = (
    "Cost: predicted, in plain inferences. Robust: mean over the sources of the share of held-out "
    "transfer examples right. AUROC: of the feature-variance score, held-out transfer examples "
    "against clean images. No other plan that was tried is better in one of the four and worse in "
    "none."
)


def print_hardening(result: Result, title: str) -> None:
    """Print figures and the Pareto table to stdout."""
    plan = result.plan
    rows: list[list[Cell]] = [[n.replace("_", " "), v] for n, v in plan.figures.items()]
    rows += [["members", plan.members], ["sites", len(plan.sites)]]
    rows += [["shared work", f"{plan.prefix_share:.0%}"]]
    rows += [["rejection", words]] if (words := no_rejection(plan.thresholds)) else []
    table(title, ["on held-out images", ""], rows)
    table("plans that no other one beats", COLUMNS, _front(result))


def page_of(result: Result, model: str, dataset: Dataset) -> str:
    """Curves, Pareto table, examples, settings."""
    return page(
        "Hardening",
        list(_sections(result, dataset)),
        subtitle=f"{model}, {result.plan.figures['held_out']} held-out images of {dataset.root}",
        footer=f"deepfusion {__version__}",
    )


def _sections(result: Result, dataset: Dataset) -> Iterator[Section]:
    figures = result.plan.figures
    if result.doubts:
        yield Warnings(result.doubts)
    with_policy = figures.get("policy_accuracy")
    note = "" if with_policy is None else f"by the adaptive policy {with_policy:.1%}"
    shown = [
        Figure("clean, undefended", f"{figures['clean_accuracy_before']:.1%}"),
        Figure("clean, fused", f"{figures['fused_accuracy']:.1%}", note),
        Figure("cost", f"{figures['cost']:.2f}", "plain inferences, predicted"),
    ]
    if "robust_accuracy" in figures:
        worst = f"worst source {figures['robust_accuracy_worst']:.1%}"
        shown += [
            Figure("transfer examples right", f"{figures['robust_accuracy']:.1%}", worst),
            Figure("AUROC of the score", f"{figures['auroc']:.3f}", "attacked against clean"),
        ]
    yield Figures(shown)
    if result.epochs:
        yield _curves(result.epochs)
        yield _epochs(result.epochs)
    if result.rounds:
        yield _rounds(result.rounds)
    yield Table(COLUMNS, _front(result), "Plans that no other one beats", NOTE)
    if result.samples:
        rows = [_row(sample, dataset) for sample in result.samples]
        yield Strip(rows, "One example of each source")
    yield Settings({n.replace("_", " "): _text(v) for n, v in result.plan.settings.items()})


def _front(result: Result) -> list[list[Cell]]:
    rows = []
    for point in (*result.front, *([] if result.chosen in result.front else [result.chosen])):
        line = line_of(point)
        percent = [f"{line[name]:.1%}" for name in ("clean", "robust")]
        rows.append([
            f"{line['shared']:.0%}", line["strength"], line["members"], f"{line['cost']:.2f}",
            *percent, f"{line['auroc']:.3f}", "chosen" if point is result.chosen else "",
        ])  # fmt: skip
    return rows


def _curves(epochs: Sequence[Epoch]) -> Curves:
    lines = [
        Curve("clean", [(e.number, e.figures.clean) for e in epochs], strong=True),
        Curve("AUROC", [(e.number, e.figures.auroc) for e in epochs], strong=True),
    ]
    lines += [
        Curve(source, [(e.number, e.figures.robust[source]) for e in epochs])
        for source in epochs[0].figures.robust
    ]
    return Curves(
        lines,
        "epoch",
        "Held-out images, epoch by epoch",
        "Share of clean images and of each source's transfer examples right, fused; AUROC of the "
        "feature-variance score.",
        even=True,
    )


def _epochs(epochs: Sequence[Epoch]) -> Table:
    rows: list[list[Cell]] = [[e.number, round(e.loss, 4), _yes(e.kept)] for e in epochs]
    return Table(("epoch", "loss", "in budget"), rows, "Epochs")


def _rounds(rounds: Sequence[Round]) -> Table:
    sources = list(rounds[0].odds)
    rows: list[list[Cell]] = [
        [r.number, round(r.loss, 4), *(f"{r.odds[s]:.0%}, {r.auroc[s]:.3f}" for s in sources)]
        for r in rounds
    ]
    return Table(
        ("round", "loss", *sources),
        rows,
        "The detector",
        "Columns of sources: their share of the pairs, and how well held-out examples were told "
        "from clean images afterwards (AUROC).",
    )


def _row(sample: Sample, dataset: Dataset) -> PictureRow:
    clean, attacked = _pixels(sample.clean), _pixels(sample.attacked)
    return PictureRow(
        f"{sample.source}: {dataset.name(sample.label)}",
        [
            Picture(clean, "clean"),
            Picture(perturbation(clean, attacked, MAGNIFIED), f"change, {MAGNIFIED:g} times"),
            Picture(attacked, "attacked"),
        ],
    )


def _pixels(image: Tensor) -> Pixels:
    return image.permute(1, 2, 0).contiguous().numpy()


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
