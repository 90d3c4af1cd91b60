"""Deep fusion: erosion models fused in output space and feature space, with one gradient memory.

A reconstruction of Wang et al., "Deep Fusion" (IEEE TII 19(6), 2023), of which epsilon, steps,
layers and weights are not public. Per step, one forward and one backward pass of each surrogate:

* every image draws fresh erosion factors for every surrogate (longitudinal ensemble, Ghost
  Networks, AAAI 2020);
* output space: cross-entropy of the mean of the surrogates' logits; targeted: the target's mean
  logit (Zhao et al., NeurIPS 2021);
* feature space: the gradient that reaches a tapped layer is joined by that layer's own memory of
  earlier, differently eroded gradients (the feature importance of FIA, ICCV 2021, with erosion in
  the place of random pixel masks), so importance costs no pass of its own;
* historical gradients: ``m = mu * m + g / mean|g|``, never reset between steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_toolkit.attacks.projections import into_ball
from deepfusion_toolkit.surgery import ErodedModel

TINY = 1e-12


@dataclass(frozen=True)
class Settings:
    """What an attack may change, and how.

    Attributes:
        eps: budget in units of 1/255, in [1, 255].
        steps: T, at least 1.
        decay: mu of the gradient memory; 0 forgets at once.
        feature_weight: share of the feature-space term at the tap, relative to the output's
            gradient; 0 leaves it out.
        targeted: towards the given class instead of away from it.
        seed: of all erosion factors.
    """

    eps: float = 16.0
    steps: int = 10
    decay: float = 1.0
    feature_weight: float = 0.5
    targeted: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.eps <= 255:  # noqa: PLR2004 - 8-bit images
            raise UsageError(
                f"epsilon must be between 1 and 255 (in 1/255), is {self.eps:g}", "change --eps"
            )
        if self.steps < 1:
            raise UsageError(f"steps must be at least 1, is {self.steps}", "change --steps")
        if not (0 <= self.decay <= 1 and 0 <= self.feature_weight < inf):
            raise UsageError(
                f"decay {self.decay:g} must be in [0, 1] and feature weight "
                f"{self.feature_weight:g} a number from 0 on",
                "change --decay or --feature-weight",
            )

    @property
    def alpha(self) -> float:
        """Step size in [0, 1] units: epsilon is reached in ten steps, or in all if fewer."""
        return self.eps / 255 / min(self.steps, 10)


def deep_fusion(
    surrogates: Sequence[ErodedModel],
    images: Tensor,
    labels: Tensor,
    keys: Sequence[str],
    settings: Settings,
) -> Tensor:
    """Craft adversarial examples; one pass of every surrogate a step.

    Args:
        surrogates: eroded models with the same classes in the same order; one tap each if
            ``feature_weight`` is above 0.
        images: clean, [N, 3, H, W] in [0, 1].
        labels: [N], the true classes, or the wanted ones if targeted.
        keys: N names; an image's erosion depends on the seed and its name, never on the batch.
        settings: see ``Settings``.

    Returns:
        [N, 3, H, W] in [0, 1], within epsilon; not yet rounded (see ``quantise``).

    Raises:
        ModelError: the gradient is not finite, naming the surrogates.
    """
    eps = settings.eps / 255
    images = images.contiguous(memory_format=torch.channels_last)  # several times faster on a CPU
    x, momentum = images.clone(), torch.zeros_like(images)
    memories: list[Tensor | None] = [None] * len(surrogates)
    for step in range(settings.steps):
        x = x.detach().requires_grad_(True)
        logits: list[Tensor] = []
        for index, surrogate in enumerate(surrogates):
            factors = _factors(surrogate, keys, settings.seed, step, index).to(images)
            seen = surrogate(x, factors)
            logits.append(seen.logits)
            if settings.feature_weight and seen.taps:
                _remember(seen.taps[0], memories, index, settings.feature_weight)
        objective = _objective(torch.stack(logits).mean(0), labels, settings.targeted)
        (gradient,) = torch.autograd.grad(objective, x)
        if not torch.isfinite(gradient).all():
            names = ", ".join(s.name for s in surrogates)
            raise ModelError(
                f"gradient is not finite at step {step} (surrogates {names})",
                "check the weights and the erosion strength of these models",
            )
        scale = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(TINY)
        momentum = settings.decay * momentum + gradient / scale
        x = into_ball(x.detach() + settings.alpha * momentum.sign(), images, eps)
    return x.detach()


def _objective(logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """What is climbed: the target's logit, or the cross-entropy of the true class."""
    if targeted:
        return logits.gather(1, labels[:, None]).sum()
    return functional.cross_entropy(logits, labels, reduction="sum")


def _factors(
    surrogate: ErodedModel, keys: Sequence[str], seed: int, step: int, index: int
) -> Tensor:
    rows = [
        sample(surrogate.sites, seed=seed, stream=stream_of("craft", key, step, index), members=1)
        for key in keys
    ]
    return torch.cat([torch.from_numpy(row) for row in rows])


def _remember(tap: Tensor, memories: list[Tensor | None], index: int, weight: float) -> None:
    """Join the tap's gradient with the memory of earlier ones, at ``weight`` of its own size."""

    def fuse(gradient: Tensor) -> Tensor:
        dims = tuple(range(1, gradient.ndim))
        size = gradient.abs().sum(dims, keepdim=True)
        unit = gradient / size.clamp_min(TINY)
        before = memories[index]
        memories[index] = unit if before is None else before + unit
        if before is None:
            return gradient
        importance = before / before.abs().sum(dims, keepdim=True).clamp_min(TINY)
        return gradient + weight * size * importance

    tap.register_hook(fuse)
