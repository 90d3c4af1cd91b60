"""What ``deepfusion evaluate`` prints: the success matrix, the targets' accuracy, the sets."""

from collections.abc import Sequence

from deepfusion_toolkit.report import words
from deepfusion_toolkit.report.sections import Cell
from deepfusion_toolkit.report.terminal import table
from deepfusion_toolkit.study import SetResult, Study


def print_study(study: Study) -> None:
    """Print the study to stdout; a cell has the rate, its counts, its interval, and a mark."""
    of = "images right when clean (all: of all images)" if study.clean else "all images"
    table(
        f"attack success of {of}",
        ["set", *words.names(study.sets), "black-box mean"],
        _matrix(study.sets),
    )
    columns, rows = words.accuracy(study)
    table("classified correctly", columns, rows)
    table(
        "how the sets were made",
        ["set", "images", "attack", "surrogates", "largest change, in 1/255", "Euclidean norm"],
        [
            [
                row.name,
                row.images,
                row.attack or "-",
                "\n".join(row.surrogates) or "-",
                words.figure(row.linf),
                words.figure(row.l2),
            ]
            for row in study.sets
        ],
    )


def _matrix(rows: Sequence[SetResult]) -> list[list[Cell]]:
    found: list[list[Cell]] = []
    for row in rows:
        cells = []
        for result in row.targets:
            main = words.main_share(result)
            lines = [words.percent(main.value) if main.total else "-", *words.cell_lines(result)]
            cells.append("\n".join([*lines, *([words.WHITE_BOX] if result.white_box else [])]))
        mean = words.main_mean(row)
        lines = ["-" if mean is None else words.percent(mean.value), *words.mean_lines(row)]
        facts = [words.budget(row), words.passes(row), words.similarity(row)]
        found.append(["\n  ".join([row.name, *facts]) + "\n", *cells, "\n".join(lines)])
    return found
