"""The page of ``deepfusion evaluate --html``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.report.html import page
from deepfusion_toolkit.report.pictures import perturbation
from deepfusion_toolkit.report.sections import (
    Bar,
    Bars,
    Cell,
    Picture,
    PictureRow,
    Prediction,
    Section,
    Strip,
    Table,
    Text,
    share,
)

if TYPE_CHECKING:
    from deepfusion_toolkit.evaluate import TargetResult
    from deepfusion_toolkit.statistics import Share

PICTURES = 6


def page_of(dataset: Dataset, clean: Dataset | None, results: "Sequence[TargetResult]") -> str:
    """Success rates with intervals and counts, then images before and after the attack."""
    columns = [
        "target",
        "clean accuracy",
        "accuracy attacked",
        "success",
        "success, all",
        "flagged",
    ]
    rows: list[list[Cell]] = [
        [
            r.name,
            *(
                _cell(s)
                for s in (r.clean_accuracy, r.accuracy, r.success, r.success_all, r.flagged)
            ),
        ]
        for r in results
    ]
    sections: list[Section] = [
        Text(
            "Success is counted over images that a target classifies correctly when clean; "
            "intervals are 95 % bootstrap intervals over images. Images are judged as saved."
        ),
        Table(columns, rows, heading="Targets"),
        Bars(
            [
                Bar(r.name, s.value, s.low, s.high, s.total, "bad")
                for r in results
                if (s := r.success) is not None
            ],
            heading="Attack success",
        ),
    ]
    if clean is not None:
        sections.append(_strip(dataset, clean, results))
    return page("Transfer evaluation", sections, subtitle=f"{len(dataset)} attacked images")


def _cell(value: "Share | None") -> str:
    return "-" if value is None else share(value.hits, value.total)


def _strip(dataset: Dataset, clean: Dataset, results: "Sequence[TargetResult]") -> Strip:
    by_name = {item.file.rsplit(".", 1)[0]: item for item in clean.items}
    chosen = np.linspace(0, len(dataset) - 1, min(PICTURES, len(dataset))).astype(int)
    rows = []
    for index in sorted(set(chosen.tolist())):
        item = dataset.items[index]
        original = by_name[item.file.rsplit(".", 1)[0]]
        before, after = clean.read(original), dataset.read(item)
        rows.append(
            PictureRow(
                item.file,
                [
                    Picture(before, "clean", _said(dataset, item, results, index, clean=True)),
                    Picture(perturbation(before, after, 8), "perturbation x 8"),
                    Picture(after, "attacked", _said(dataset, item, results, index, clean=False)),
                ],
            )
        )
    return Strip(rows, heading="Images")


def _said(
    dataset: Dataset, item: Item, results: "Sequence[TargetResult]", index: int, *, clean: bool
) -> list[Prediction]:
    said = []
    for result in results:
        labels = result.clean_predictions if clean else result.predictions
        if labels is not None:
            said.append(
                Prediction(result.name, dataset.name(labels[index]), labels[index] == item.label)
            )
    return said
