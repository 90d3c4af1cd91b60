"""How to harden: what a user may choose, and the ranges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from deepfusion_edge.errors import UsageError
from deepfusion_edge.fusion import MEAN, FusionRule
from deepfusion_toolkit import attacks
from deepfusion_toolkit.names import HARDEN_EPOCHS
from deepfusion_toolkit.preprocess import Stage, parse

Method = Literal["transfer", "adversarial", "distillation"]


@dataclass(frozen=True)
class Settings:
    """How to harden.

    Attributes:
        method: "transfer" teaches a detector by examples crafted on surrogates, and classes by one
            step on the model itself, now and as it was; "adversarial" classes by PGD on it;
            "distillation" by softened labels.
        eps: largest budget of the attacks, in 1/255.
        steps: of an attack for each surrogate, in passes.
        epochs: of training, at most; 0 only chooses the plan, and calibrates.
        members: K; None: searched.
        fusion: how their predictions are fused.
        preprocess: stages before the network, as ``preprocess.parse`` reads them.
        shared: least share of the multiply-adds that members have in common, in [0, 1). From the
            default on, an adaptive policy over eight members keeps its goal (a test holds that).
        max_cost: most that the fused prediction may cost, in plain inferences.
        max_clean_drop: how much accuracy the defence may cost on held-out images, in [0, 1].
        false_positive_rate: of the flags, on clean images; 0: no thresholds, nothing is flagged.
        rate: learning rate.
        crafted: at most so many transfer examples for training.
        temperature: of distillation, at least 1.
        seed: of everything drawn.
    """

    method: Method = "transfer"
    eps: float = 16.0
    steps: int = 10
    epochs: int = HARDEN_EPOCHS
    members: int | None = None
    fusion: FusionRule = MEAN
    preprocess: Sequence[str] = ()
    shared: float = 0.8
    max_cost: float = 4.0
    max_clean_drop: float = 0.02
    false_positive_rate: float = 0.01
    rate: float = 3e-3
    crafted: int = 4000
    temperature: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        attacks.Settings(eps=self.eps, steps=self.steps)
        _ = self.stages
        if self.method not in get_args(Method):
            raise UsageError(
                f"there is no method '{self.method}'", f"give one of {', '.join(get_args(Method))}"
            )
        for name, value, low, high in (
            ("epochs", self.epochs, 0, 1000),
            ("members", 1 if self.members is None else self.members, 1, 64),
            ("shared", self.shared, 0, 0.99),
            ("max-cost", self.max_cost, 1, 64),
            ("max-clean-drop", self.max_clean_drop, 0, 1),
            ("false-positive-rate", self.false_positive_rate, 0, 0.5),
            ("rate", self.rate, 1e-7, 1),
            ("crafted", self.crafted, 1, 10_000_000),
            ("temperature", self.temperature, 1, 1000),
        ):
            if not low <= value <= high:
                raise UsageError(
                    f"{name} must be in [{low}, {high}], is {value}", f"change --{name}"
                )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The preprocessing, read."""
        return tuple(map(parse, self.preprocess))
