"""What ``deepfusion evaluate --threat`` finds: the schema of its JSON, and how rows are made."""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from deepfusion_toolkit.adaptive import Adaptive
from deepfusion_toolkit.statistics import Mean, Share
from deepfusion_toolkit.threats.ablation import FormRow
from deepfusion_toolkit.threats.case import Attack
from deepfusion_toolkit.threats.detection import Detection, detections
from deepfusion_toolkit.threats.fixed_draw import FixedRow
from deepfusion_toolkit.threats.outcome import Judged, Outcome, count_of, mean_of
from deepfusion_toolkit.threats.white_box import Point


class Clean(msgspec.Struct, frozen=True):
    """The defence on all clean images.

    Attributes:
        images: how many.
        undefended: accuracy of the undefended model.
        fused: of the defence, mean over redraws.
        worst: images that every redraw has right.
        flagged: suspect or rejected: false positives, mean over redraws.
        named_rate: the rate that the plan's thresholds were set for; None without thresholds.
    """

    images: int
    undefended: Share
    fused: Mean
    worst: Share
    flagged: Mean
    named_rate: float | None


class Row(msgspec.Struct, frozen=True):
    """One attacker at one epsilon; every figure is over the same attacked images.

    Attributes:
        threat, attack, eps, effort: who, how, with which budget (in 1/255), at what cost.
        images: how many were attacked.
        clean: accuracy of the defence on their originals, mean over redraws.
        robust: plain accuracy under attack, mean over redraws, flagged or not.
        worst: images that every redraw has right under attack.
        harm: wrong *and accepted*, mean over redraws; a flagged frame does no harm.
        flagged: suspect or rejected, mean over redraws.
        undefended_clean, undefended: accuracy of the undefended model, before and after.
        detection: each score against all clean images.
        seconds: that its last attack took.
    """

    threat: str
    attack: str
    eps: float
    effort: dict[str, int | float | str]
    images: int
    clean: Mean
    robust: Mean
    worst: Share
    harm: Mean
    flagged: Mean
    undefended_clean: Share
    undefended: Share
    detection: list[Detection]
    seconds: float


class SweepPoint(msgspec.Struct, frozen=True):
    """Mean accuracy over redraws that one attacker leaves at one epsilon (in 1/255)."""

    threat: str
    attack: str
    eps: float
    robust: float


class ThreatStudy(msgspec.Struct, frozen=True):
    """Schema 1 of ``deepfusion evaluate --threat ... --json``.

    Attributes:
        target, members, surrogates: names, K, names.
        undefended: name of the model before hardening; None: the target itself, without erosion.
        knows: what each threat knows, in words.
        cost, latency: of one fused prediction in plain inferences: by multiply-adds, and as
            measured (a median ratio in one process; None without ``forms``).
        images, redraws, seed: of the attacked images.
        rows: one for each attacker and epsilon; ``white-box`` is the ladder's last rung.
        fixed: the fixed draw under AutoAttack.
        ladder: every attack of every rung, and whether the last rung took nothing, by epsilon.
        flat: by epsilon, as text.
        sweep: epsilon doubled until nothing stands.
        adaptive: the plan's policy beside always-K, on all ``clean`` images and by transfer attack;
            empty without a policy.
        ablation: forms of the model at their cost.
        settings: how hard attackers tried.
        warnings: what makes figures doubtful, in words.
    """

    schema: Literal[1]
    target: str
    undefended: str | None
    members: int
    surrogates: list[str]
    knows: dict[str, str]
    cost: float
    latency: float | None
    images: int
    redraws: int
    seed: int
    clean: Clean
    rows: list[Row]
    fixed: list[FixedRow]
    ladder: list[Point]
    flat: dict[str, bool]
    sweep: list[SweepPoint]
    adaptive: dict[str, Adaptive]
    ablation: list[FormRow]
    settings: dict[str, object]
    warnings: list[str]


def clean_of(
    judged: Judged, undefended: Sequence[int], truth: Sequence[int], named_rate: float | None
) -> Clean:
    """Count what the defence makes of clean images."""
    right = ~judged.wrong(truth)
    return Clean(
        images=len(truth),
        undefended=count_of(_equal(undefended, truth)),
        fused=mean_of(right),
        worst=count_of(np.all(right, axis=0)),
        flagged=mean_of(np.array(judged.flagged, bool)),
        named_rate=named_rate,
    )


def row_of(
    attack: Attack,
    outcome: Outcome,
    truth: Sequence[int],
    *,
    before: Outcome,
    clean: Judged,
    effort: dict[str, int | float | str] | None = None,
) -> Row:
    """Count what an attack left.

    Args:
        attack: who; its name and effort are shown unless ``effort`` is given.
        outcome: what came of it.
        truth: labels of the attacked images.
        before: what was said of their originals.
        clean: all clean images.
        effort: of a whole ladder.
    """
    right = ~outcome.judged.wrong(truth)
    return Row(
        threat=attack.threat,
        attack=attack.name,
        eps=attack.eps,
        effort=attack.effort if effort is None else effort,
        images=len(truth),
        clean=mean_of(~before.judged.wrong(truth)),
        robust=mean_of(right),
        worst=count_of(np.all(right, axis=0)),
        harm=mean_of(outcome.judged.harmful(truth)),
        flagged=mean_of(np.array(outcome.judged.flagged, bool)),
        undefended_clean=count_of(_equal(before.undefended, truth)),
        undefended=count_of(_equal(outcome.undefended, truth)),
        detection=detections(outcome.judged, truth, clean),
        seconds=outcome.seconds,
    )


def _equal(said: Sequence[int], truth: Sequence[int]) -> list[bool]:
    return [a == b for a, b in zip(said, truth, strict=True)]
