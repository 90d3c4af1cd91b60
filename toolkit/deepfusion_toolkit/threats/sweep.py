"""Epsilon doubled until nothing stands: a curve that must end at 0 % if the attack is any good."""

from collections.abc import Callable, Iterator

from deepfusion_toolkit.threats.case import Attack, Case
from deepfusion_toolkit.threats.outcome import Outcome, robust
from deepfusion_toolkit.threats.result import SweepPoint

WIDEST = 255.0


def sweep(
    case: Case, at: Callable[[float], Attack], eps: float, outcome: Outcome, *, sees: bool
) -> Iterator[SweepPoint]:
    """Double epsilon from where ``outcome`` stands, until 0 % or 255/255.

    Args:
        case: the defence and its images.
        at: epsilon in 1/255 -> the attack there.
        eps: where ``outcome`` was reached.
        outcome: of the same attacker, or a stronger one.
        sees: the attacker sees what it reached; a smaller change then serves within a larger
            budget, and only images that stand are attacked again.
    """
    left = robust(outcome, case.images.labels)
    while left > 0 and eps < WIDEST:
        eps = min(WIDEST, 2 * eps)
        attack = at(eps)
        outcome = case.attacked(attack, outcome if sees else None)
        left = robust(outcome, case.images.labels)
        yield SweepPoint(attack.threat, attack.name, eps, left)
