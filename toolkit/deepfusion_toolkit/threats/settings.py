"""How hard attackers try, on how many images, and how often the defence draws anew."""

from dataclasses import dataclass
from math import inf

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.attacks.settings import Settings as AttackSettings
from deepfusion_toolkit.names import ATTACKS, DEEP_FUSION

MOST_MEMBERS = 64


@dataclass(frozen=True)
class Settings:
    """Everything that a user may raise; the defaults are for small nets on two cores.

    Attributes:
        eps: budgets in units of 1/255.
        limit: images that are attacked, balanced over classes; false positives are counted on all.
        redraws: R, how often each image is judged with other factors.
        attack: names of the transfer attacks.
        passes: of each of them, per image; None: ten for each surrogate.
        steps: of the first rung of the white-box ladder, and AutoAttack's iterations (paper: 100).
        eot: draws that a gradient is averaged over, one rung each.
        raises: further rungs; each doubles draws, steps and restarts.
        tolerance: the ladder ends where a rung takes less robust accuracy than this, in [0, 1].
        queries: of Square for each image (paper: 5000).
        sweep: whether epsilon is doubled until nothing stands.
        forms: whether single, ensemble and eroded forms are compared at their cost.
        members: K of the eroded forms.
        rounds: of the latency measurement.
        batch: images at once.
        seed: of every draw.
    """

    eps: tuple[float, ...] = (8.0,)
    limit: int = 40
    redraws: int = 5
    attack: tuple[str, ...] = (DEEP_FUSION,)
    passes: int | None = None
    steps: int = 10
    eot: tuple[int, ...] = (1, 20, 100)
    raises: int = 0
    tolerance: float = 0.01
    queries: int = 300
    sweep: bool = True
    forms: bool = True
    members: tuple[int, ...] = (1, 5, 10, 30)
    rounds: int = 15
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for eps in self.eps:
            AttackSettings(eps=eps, seed=self.seed)
        whole = inf
        bounds: list[tuple[str, float, float, float]] = [
            ("limit", self.limit, 1, whole),
            ("redraws", self.redraws, 1, 1000),
            ("passes", 1 if self.passes is None else self.passes, 1, whole),
            ("steps", self.steps, 1, 100_000),
            ("raises", self.raises, 0, 10),
            ("tolerance", self.tolerance, 0, 1),
            ("queries", self.queries, 1, 1_000_000),
            ("rounds", self.rounds, 1, 10_000),
            ("batch", self.batch, 1, 4096),
            *(("eot", draws, 1, 100_000) for draws in self.eot),
            *(("members", members, 1, MOST_MEMBERS) for members in self.members),
        ]
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise UsageError(
                    f"{name} must be in [{low:g}, {high:g}], is {value}", f"change --{name}"
                )
        for name in self.attack:
            if name not in ATTACKS:
                raise UsageError(
                    f"there is no attack '{name}'", f"give one of {', '.join(ATTACKS)}"
                )
        if not self.eps or not self.eot or list(self.eot) != sorted(set(self.eot)):
            raise UsageError(
                f"eot must grow from rung to rung, is {', '.join(map(str, self.eot))}",
                "give --eot in growing order, and at least one --eps",
            )
