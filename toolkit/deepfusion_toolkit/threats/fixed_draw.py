"""The deterministic version: one draw of the factors, known to the attacker, under AutoAttack."""

from pathlib import Path

import msgspec
import torch

from deepfusion_toolkit.attacks.parts import Effort
from deepfusion_toolkit.robustness import robust_accuracy
from deepfusion_toolkit.statistics import Share
from deepfusion_toolkit.threats.case import Case
from deepfusion_toolkit.threats.network import fixed


class FixedRow(msgspec.Struct, frozen=True):
    """AutoAttack on one draw that the attacker knows; see ``robustness.Robustness``."""

    eps: float
    images: int
    clean: Share
    robust: Share
    parts: list[str]
    standing: list[int]
    note: str
    doubts: list[str]


def fixed_draw(case: Case, eps: float, state: Path | None) -> FixedRow:
    """Run AutoAttack with the settings' steps and queries; its parts are kept beside ``state``.

    Raises:
        ModelError: pyautoattack is not installed.
    """
    settings = case.settings
    effort = Effort(iterations=settings.steps, queries=settings.queries)
    parts = None if state is None else state.with_name(f"{state.name}.autoattack-{eps:g}")

    def make() -> FixedRow:
        found = robust_accuracy(
            fixed(case.jury.defended, case.jury.plan.members, seed=settings.seed),
            case.images.inputs,
            torch.tensor(case.images.labels),
            eps,
            seed=settings.seed,
            effort=effort,
            batch=settings.batch,
            state=parts,
        )
        return FixedRow(
            eps,
            len(case.images),
            found.clean,
            found.robust,
            [*found.parts],
            found.standing,
            found.note,
            found.doubts,
        )

    key = f"fixed draw: AutoAttack eps={eps:g} {effort.iterations} {effort.queries}"
    row = case.ledger.recall(key, FixedRow, make)
    if parts is not None:
        parts.unlink(missing_ok=True)
    return row
