"""What an attack may change and how: every part of it is one field, and can be switched off."""

from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

from deepfusion_edge.erosion import Kind
from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.names import TRANSFORMS

Method = Literal["fusion", "vmi", "pgn", "svre", "smer", "fia", "cw"]
Loss = Literal["ce", "logit"]


@dataclass(frozen=True)
class Settings:
    """What an attack may change, and how.

    Attributes:
        eps: budget in units of 1/255, in [1, 255].
        steps: T, updates of the image, at least 1.
        step_size: of one update in units of 1/255; None: a tenth of epsilon, or all of it in T.
        decay: mu of the gradient memory; 0 forgets at once.
        nesterov: look ahead along the memory before each step (NI, Lin et al., ICLR 2020).
        targeted: towards the given class instead of away from it.
        loss: "ce" cross-entropy of the fused logits, "logit" the class's own logit (Zhao et al.,
            NeurIPS 2021); None: cross-entropy, and the logit if targeted.
        seed: of every draw.
        method: how a step's direction comes from passes, see ``directions``; "fusion" is deep
            fusion and, with parts switched off, MI, NI, DI, TI, SI, Admix, BSR on mean logits.
        group: surrogates a step sees (minigroup), 0 for all at once; the others' logits are
            remembered.
        erosion: strength of erosion relative to the published one; 0 leaves it out.
        kinds: of erosion, of skip, activation and norm; a model without them erodes activations.
        residual: share of the gradient that residual branches pass (SGM); 1 is the plain gradient.
        feature_weight: share of the feature-space term at the tap, relative to the output's
            gradient; 0 leaves it out.
        adaptive: weigh the feature-space term by how far it still agrees with the present gradient.
        tap: layer names, or MODEL:LAYER, for the feature-space term; empty: chosen by depth.
        transforms: of ``names.TRANSFORMS``, drawn for each image, surrogate and pass.
        kernel: side of TI's Gaussian in pixels, odd; 0 leaves it out.
        samples: passes averaged for one step (copies of SI, Admix and BSR; neighbours of VMI, PGN,
            SVRE's and SMER's inner steps for each surrogate, FIA's masks, C&W's searches).
        radius: neighbours are drawn within this multiple of epsilon around the image; 0: none.
        start: begin at a random point of the ball instead of the image (PGD).
        precision: "bf16" runs networks in mixed precision: faster on a GPU, slower on a CPU.
        compile: run compiled surrogates: minutes for each before the first image, so for long runs.
        mixup: largest share of a clean feature mixed into a map (CFM); 0 leaves it out.
    """

    eps: float = 16.0
    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0
    nesterov: bool = False
    targeted: bool = False
    loss: Loss | None = None
    seed: int = 0
    method: Method = "fusion"
    group: int = 0
    erosion: float = 1.0
    kinds: tuple[Kind, ...] = ("skip",)
    residual: float = 1.0
    feature_weight: float = 0.5
    adaptive: bool = False
    tap: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    kernel: int = 0
    samples: int = 1
    radius: float = 0.0
    start: bool = False
    mixup: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        rules = [
            (1 <= self.eps <= 255, "epsilon must be between 1 and 255 (in 1/255)", "eps"),  # noqa: PLR2004
            (self.steps >= 1, "steps must be at least 1", "steps"),
            (
                self.step_size is None or 0 < self.step_size <= 255,  # noqa: PLR2004
                "step size must be above 0 and at most 255 (in 1/255)",
                "step_size",
            ),
            (0 <= self.decay <= 1, "decay must be in [0, 1]", "decay"),
            (self.group >= 0, "group must be 0 (all surrogates) or more", "group"),
            (0 <= self.erosion <= 4, "erosion must be in [0, 4]", "erosion"),  # noqa: PLR2004
            (
                bool(self.kinds) and set(self.kinds) <= set(get_args(Kind)),
                f"kinds are {', '.join(get_args(Kind))}",
                "kinds",
            ),
            (0 < self.residual <= 1, "residual must be above 0 and at most 1", "residual"),
            (
                0 <= self.feature_weight < inf,
                "feature weight must be a number from 0 on",
                "feature_weight",
            ),
            (
                set(self.transforms) <= set(TRANSFORMS),
                f"transforms are {', '.join(TRANSFORMS)}",
                "transforms",
            ),
            (
                self.kernel == 0 or (self.kernel % 2 == 1 and 0 < self.kernel <= 99),  # noqa: PLR2004
                "kernel must be 0 or odd and below 100",
                "kernel",
            ),
            (self.samples >= 1, "samples must be at least 1", "samples"),
            (0 <= self.radius < inf, "radius must be a number from 0 on", "radius"),
            (0 <= self.mixup <= 1, "mixup must be in [0, 1]", "mixup"),
            (
                not (self.compile and (self.taps_features or self.mixup)),
                "compiled surrogates hide their features: compile needs feature weight 0, no mixup",
                "compile",
            ),
        ]
        for holds, rule, name in rules:
            if not holds:
                raise UsageError(
                    f"{rule}, is {getattr(self, name)}", f"change --{name.replace('_', '-')}"
                )

    @property
    def taps_features(self) -> bool:
        """Whether a layer of each surrogate is looked at."""
        return self.method == "fia" or (self.method == "fusion" and self.feature_weight > 0)

    @property
    def mixes(self) -> bool:
        """Whether other images are needed."""
        return "admix" in self.transforms or self.mixup > 0

    @property
    def alpha(self) -> float:
        """Size of one update in [0, 1] units."""
        if self.step_size is not None:
            return self.step_size / 255
        return self.eps / 255 / min(self.steps, 10)
