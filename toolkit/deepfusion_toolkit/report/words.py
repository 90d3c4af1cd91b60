"""The figures of a study in words, the same on the page and on the terminal."""

from collections.abc import Sequence

from deepfusion_toolkit.evaluate import TargetResult
from deepfusion_toolkit.report.sections import Cell
from deepfusion_toolkit.report.sections import share as counted
from deepfusion_toolkit.statistics import Mean, Share
from deepfusion_toolkit.study import SetResult, Study

WHITE_BOX = "white-box"


def percent(value: float) -> str:
    """``93.3 %``."""
    return f"{100 * value:.1f} %"


def interval(value: Share | Mean) -> str:
    """``87 to 98 %``: the 95 % bootstrap interval."""
    return f"{100 * value.low:.0f} to {100 * value.high:.0f} %"


def share(value: Share | None) -> str:
    """``93.3 % (56 of 60)``; a dash where nothing is known."""
    return "-" if value is None else counted(value.hits, value.total)


def main_share(result: TargetResult) -> Share:
    """Success over images right when clean; over all images where originals are not known."""
    return result.success if result.success is not None else result.success_all


def main_mean(row: SetResult) -> Mean | None:
    """Return the black-box mean of that success."""
    return row.black_box_mean if _knows_originals(row) else row.black_box_mean_all


def cell_lines(result: TargetResult) -> list[str]:
    """What belongs below a rate: counts, interval, and success over all images."""
    main = main_share(result)
    lines = [f"{main.hits} of {main.total}"]
    if main.total:
        lines.append(interval(main))
    if result.success is not None:
        lines.append(f"all: {percent(result.success_all.value)}")
    return lines


def mean_lines(row: SetResult) -> list[str]:
    """What belongs below a black-box mean; unknown surrogates may be among the targets."""
    main, of_all = main_mean(row), row.black_box_mean_all
    if of_all is None:
        return ["no black-box target"]
    if main is None:
        return ["never right when clean", f"all: {percent(of_all.value)}"]
    lines = [f"{main.targets} target" + ("s" if main.targets > 1 else ""), interval(main)]
    if not row.surrogates:
        lines.append("surrogates unknown")
    return [*lines, *([f"all: {percent(of_all.value)}"] if _knows_originals(row) else [])]


def set_lines(row: SetResult) -> list[str]:
    """How a set was made and how far it is from its originals; dashes where nothing is known."""
    made_on = ", ".join(row.surrogates) or "-"
    return [
        f"attack: {row.attack or '-'}",
        f"surrogates: {made_on}",
        f"{budget(row)}, {passes(row)}",
        f"{similarity(row)}, {row.images} images",
    ]


def budget(row: SetResult) -> str:
    """``eps 16/255``."""
    return "eps: -" if row.eps is None else f"eps {row.eps:g}/255"


def passes(row: SetResult) -> str:
    """``20 passes per image``."""
    count = row.passes_per_image
    return "passes per image: -" if count is None else f"{count} passes per image"


def similarity(row: SetResult) -> str:
    """``SSIM 0.931``."""
    return f"SSIM {figure(row.ssim)}"


def figure(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def accuracy(study: Study) -> tuple[list[str], list[list[Cell]]]:
    """Columns and rows: what each target gets right, and flags if one of them is defended."""
    columns = ["set", "target", "right when clean", "right attacked"]
    columns += ["flagged clean", "flagged attacked"]
    results = [(row.name, result) for row in study.sets for result in row.targets]
    rows: list[list[Cell]] = [
        [
            name,
            result.name,
            share(result.clean_accuracy),
            share(result.accuracy),
            share(result.flagged_clean),
            share(result.flagged),
        ]
        for name, result in results
    ]
    if all(result.flagged is None for _, result in results):
        return columns[:4], [row[:4] for row in rows]
    return columns, rows


def names(rows: Sequence[SetResult]) -> list[str]:
    """The targets' names, which are the same for every set."""
    return [result.name for result in rows[0].targets]


def _knows_originals(row: SetResult) -> bool:
    return any(result.success is not None for result in row.targets)
