"""The page of ``deepfusion evaluate --html``."""

from collections.abc import Iterator, Sequence

import numpy as np

from deepfusion_toolkit import __version__
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.evaluate import originals
from deepfusion_toolkit.report import words
from deepfusion_toolkit.report.html import page
from deepfusion_toolkit.report.pictures import perturbation
from deepfusion_toolkit.report.sections import (
    Bar,
    Bars,
    HeatCell,
    HeatMap,
    HeatRow,
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
from deepfusion_toolkit.sets import AttackedSet
from deepfusion_toolkit.study import SetResult, Study

PICTURES = 12
"""Images shown on the whole page, at most six of a set and at least one."""

PICTURES_OF_SET = 6
MAGNIFIED = 8.0


def page_of(
    study: Study, sets: Sequence[AttackedSet], clean: Dataset | None, ablation: Table | None = None
) -> str:
    """Success matrix, black-box means, distances, images, and how each set was made."""
    images = sum(row.images for row in study.sets)
    subtitle = (
        f"{_many(len(study.sets), 'attacked set')} with {_many(images, 'image')}, "
        f"{_many(len(study.sets[0].targets), 'target')}"
    )
    sections = list(_sections(study, sets, clean, ablation))
    return page("Transfer study", sections, subtitle=subtitle, footer=f"deepfusion {__version__}")


def _sections(
    study: Study, sets: Sequence[AttackedSet], clean: Dataset | None, ablation: Table | None
) -> Iterator[Section]:
    if study.warnings:
        yield Warnings(study.warnings)
    over = "that the target has right when clean" if clean is not None else "of the set"
    yield Text(
        f"Success is the share of images {over} on which the attack works: any wrong class, or the "
        "wanted one if the attack has a target class. Intervals resample images (bootstrap, 95 %). "
        "Images are judged as saved."
    )
    yield _matrix(study)
    bars = [_bar(row) for row in study.sets if words.main_mean(row) is not None]
    if bars:
        yield Bars(
            [bar for bar in bars if bar is not None],
            heading="Black-box mean of each set",
            note="Mean over the targets that the set was not crafted on, each weighing the same; "
            "the lines resample images, the same ones for all targets.",
        )
    if ablation is not None:
        yield ablation
    columns, rows = words.accuracy(study)
    yield Table(columns, rows, heading="Classified correctly")
    yield _distances(study)
    if clean is not None:
        shown = max(1, min(PICTURES_OF_SET, PICTURES // len(sets)))
        for one, row in zip(sets, study.sets, strict=True):
            yield _strip(one, clean, row, shown)
    for row in study.sets:
        yield Settings(_settings(row), heading=f"How {row.name} was made")


def _matrix(study: Study) -> HeatMap:
    rows = []
    for row in study.sets:
        cells = [
            HeatCell(
                main.value if (main := words.main_share(result)).total else None,
                words.cell_lines(result),
                words.WHITE_BOX if result.white_box else "",
            )
            for result in row.targets
        ]
        mean = words.main_mean(row)
        cells.append(HeatCell(None if mean is None else mean.value, words.mean_lines(row)))
        rows.append(HeatRow(row.name, cells, words.set_lines(row)))
    return HeatMap(
        "set",
        [*words.names(study.sets), "black-box mean"],
        rows,
        heading="Attack success",
        note="All: over all images. Dashed cells are white-box: the set was crafted on that very "
        "target, so the mean leaves them out.",
    )


def _bar(row: SetResult) -> Bar | None:
    mean = words.main_mean(row)
    if mean is None:
        return None
    note = f"{words.passes(row)}, {words.similarity(row)}"
    return Bar(row.name, mean.value, mean.low, mean.high, mean.images, "bad", note)


def _distances(study: Study) -> Table:
    return Table(
        ["set", "SSIM", "largest change, in 1/255", "Euclidean norm"],
        [
            [r.name, words.figure(r.ssim), words.figure(r.linf), words.figure(r.l2)]
            for r in study.sets
        ],
        heading="Distance from the originals",
        note="Means over images. SSIM is 1 for the same image; it needs 11 pixels a side. The norm "
        "is over all channel values, where 1 is the full range of one.",
    )


def _strip(one: AttackedSet, clean: Dataset, row: SetResult, count: int) -> Strip:
    dataset = one.dataset
    matched = originals(dataset, clean)
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    rows = []
    for index in sorted(set(chosen.tolist())):
        item, original = dataset.items[index], matched.items[index]
        before, after = clean.read(original), dataset.read(item)
        rows.append(
            PictureRow(
                f"{item.file}: {_class(dataset, item.label)}",
                [
                    Picture(before, "clean", _said(dataset, item, row, index, clean=True)),
                    Picture(
                        perturbation(before, after, MAGNIFIED), f"perturbation x {MAGNIFIED:g}"
                    ),
                    Picture(after, "attacked", _said(dataset, item, row, index, clean=False)),
                ],
            )
        )
    return Strip(
        rows,
        heading=f"Images of {one.name}",
        note=f"{words.similarity(row)}, {words.passes(row)}. Evenly spaced over the set.",
    )


def _said(
    dataset: Dataset, item: Item, row: SetResult, index: int, *, clean: bool
) -> list[Prediction]:
    said = []
    for result in row.targets:
        labels = result.clean_predictions if clean else result.predictions
        if labels is not None:
            note = words.WHITE_BOX if result.white_box and not clean else ""
            right = labels[index] == item.label
            said.append(Prediction(result.name, _class(dataset, labels[index]), right, note))
    return said


def _class(dataset: Dataset, label: int) -> str:
    return f"class {label}" if dataset.classes is None else dataset.name(label)


def _settings(row: SetResult) -> dict[str, object]:
    facts: dict[str, object] = {"folder": row.path, "images": row.images}
    if row.head is None:
        return {**facts, "manifest": "none that deepfusion craft wrote"}
    for name, value in row.head.items():
        parts = value if isinstance(value, dict) else {"": value}
        for part, one in parts.items():
            facts[f"{name} {part}".replace("_", " ").strip()] = _flat(one)
    return facts


def _flat(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(v) for v in value) or "-"
    return "-" if value is None or value == "" else value


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
