"""The tables of a threat study, the same on the page and on the terminal."""

from typing import NamedTuple

from deepfusion_toolkit.report import words
from deepfusion_toolkit.report.sections import Cell
from deepfusion_toolkit.report.sections import share as counted
from deepfusion_toolkit.report.terminal import table
from deepfusion_toolkit.statistics import Mean
from deepfusion_toolkit.threats.result import ThreatStudy


class Rows(NamedTuple):
    """A titled table; ``note`` says what its columns mean."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


def held(study: ThreatStudy) -> Rows:
    """What holds against whom."""
    return Rows(
        "What holds",
        [
            *("threat", "attack", "eps", "clean", "right under attack", "95 %", "in every redraw"),
            *("accepted and wrong", "flagged", "undefended, clean", "undefended, attacked"),
        ],
        [
            [
                row.threat,
                row.attack,
                f"{row.eps:g}/255",
                words.percent(row.clean.value),
                words.percent(row.robust.value),
                words.interval(row.robust),
                words.percent(row.worst.value),
                words.percent(row.harm.value),
                words.percent(row.flagged.value),
                words.percent(row.undefended_clean.value),
                words.percent(row.undefended.value),
            ]
            for row in study.rows
        ],
        "Right under attack is plain accuracy, whether the frame is flagged or not; accepted and "
        f"wrong is what a plant would act on. Both are means over {study.redraws} redraws of the "
        "factors, with a bootstrap interval over images. Undefended: "
        + (study.undefended or "the target itself, hardened but not fused")
        + ".",
    )


def clean(study: ThreatStudy) -> Rows:
    """The defence on clean images."""
    one = study.clean
    rate = "-" if one.named_rate is None else f"{one.named_rate:.2%}"
    return Rows(
        f"{one.images} clean images",
        [
            *("", "undefended", f"fused over {study.members}", "in every redraw"),
            *("flagged", "named rate", "cost", "latency"),
        ],
        [
            [
                study.target,
                counted(one.undefended.hits, one.undefended.total),
                _mean(one.fused),
                counted(one.worst.hits, one.worst.total),
                f"{one.flagged.value:.2%} ({one.flagged.low:.2%} to {one.flagged.high:.2%})",
                rate,
                f"{study.cost:.2f}",
                "-" if study.latency is None else f"{study.latency:.2f}",
            ]
        ],
        "Cost of one fused prediction in plain inferences, by multiply-adds; latency as measured.",
    )


def detected(study: ThreatStudy) -> Rows:
    """How well each score tells attacked images from clean ones."""
    return Rows(
        "Detection",
        ["threat", "attack", "eps", "score", "AUROC", "TPR at 1 %", "TPR at 5 %", "AUROC, wrong"],
        [
            [
                row.threat,
                row.attack,
                f"{row.eps:g}/255",
                one.score.replace("_", " "),
                f"{one.auroc:.3f}",
                words.percent(one.true_positives_at_1),
                words.percent(one.true_positives_at_5),
                words.figure(one.auroc_fooling),
            ]
            for row in study.rows
            for one in row.detection
        ],
        "Every attacked image against every clean one; the last column counts only attacked "
        "images that are wrong. TPR: attacked images above the limit that 1 or 5 % of the clean "
        "ones pass. The row of PGD that lowers the scores is the adaptive one.",
    )


def known_draw(study: ThreatStudy) -> Rows:
    """The fixed draw under AutoAttack."""
    return Rows(
        "One fixed draw, known to the attacker, under AutoAttack",
        ["eps", "clean", "right under attack", "left by each part", "note"],
        [
            [
                f"{row.eps:g}/255",
                counted(row.clean.hits, row.clean.total),
                counted(row.robust.hits, row.robust.total),
                ", ".join(f"{p} {n}" for p, n in zip(row.parts, row.standing, strict=True)),
                row.note or "-",
            ]
            for row in study.fixed
        ],
        f"{study.settings['steps']} iterations (paper: 100), {study.settings['queries']} queries "
        "(paper: 5000).",
    )


def forms(study: ThreatStudy) -> Rows:
    """Forms of the model at their cost."""
    attacks = list(study.ablation[0].robust) if study.ablation else []
    return Rows(
        "Single, ensemble, eroded",
        ["form", "members", "cost", "latency", "clean", *attacks],
        [
            [
                row.form,
                row.members,
                f"{row.cost:.2f}",
                f"{row.latency:.2f}",
                words.percent(row.clean.value),
                *(words.percent(row.robust[name].value) for name in attacks),
            ]
            for row in study.ablation
        ],
        "Cost in plain inferences, by multiply-adds; latency is the same as measured here, a "
        "median ratio in one process. Compare rows of equal cost. A plain ensemble needs "
        "--ensemble models.",
    )


def policy(study: ThreatStudy) -> Rows:
    """What the adaptive policy costs and loses."""
    return Rows(
        "Adaptive policy against always all members",
        ["images", "cost", "always", "escalated", "right", "always", "flagged", "always"],
        [
            [
                name,
                f"{seen.policy.cost:.2f}",
                f"{seen.always.cost:.2f}",
                counted(seen.escalated.hits, seen.escalated.total),
                words.percent(seen.policy.accuracy.value),
                words.percent(seen.always.accuracy.value),
                words.percent(seen.policy.flagged.value),
                words.percent(seen.always.flagged.value),
            ]
            for name, seen in study.adaptive.items()
        ],
        "Cost is the mean of a prediction in plain inferences; each image on its own, the same "
        "draws. The plan names the few members that begin.",
    )


def knowledge(study: ThreatStudy) -> Rows:
    """What each threat knows."""
    return Rows(
        "What each attacker knows", ["threat", "knows"], [[*i] for i in study.knows.items()]
    )


def print_threats(study: ThreatStudy) -> None:
    """Print the study to stdout."""
    for one in (
        *(clean(study), held(study), known_draw(study), detected(study)),
        *(policy(study), forms(study)),
    ):
        if one.rows:
            table(one.title, one.columns, one.rows)


def _mean(value: Mean) -> str:
    return f"{words.percent(value.value)} ({words.interval(value)})"
