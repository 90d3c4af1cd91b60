"""The one loop of every attack: look ahead, ask for a direction, remember, step, project."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepfusion_toolkit.attacks import transforms
from deepfusion_toolkit.attacks.carlini_wagner import transferable
from deepfusion_toolkit.attacks.directions import DIRECTIONS
from deepfusion_toolkit.attacks.passes import TINY, Passes
from deepfusion_toolkit.attacks.projections import into_ball
from deepfusion_toolkit.attacks.settings import Settings
from deepfusion_toolkit.surgery import ErodedModel


class Attacked(NamedTuple):
    """Images [N, 3, H, W] in [0, 1] within epsilon, not yet rounded, and passes spent on each."""

    images: Tensor
    passes: int


def attack(
    surrogates: Sequence[ErodedModel],
    images: Tensor,
    labels: Tensor,
    keys: Sequence[str],
    settings: Settings,
    bank: Tensor | None = None,
) -> Attacked:
    """Craft adversarial examples.

    Args:
        surrogates: eroded models with the same classes in the same order; one tap each if
            ``feature_weight`` is above 0.
        images: clean, [N, 3, H, W] in [0, 1].
        labels: [N], the true classes, or the wanted ones if targeted.
        keys: N names; an image's draws depend on the seed and its name, never on the batch.
        settings: see ``Settings``.
        bank: other images [M, 3, H, W] for transforms that mix images.

    Raises:
        ModelError: a surrogate's scores or gradient are not finite, naming it; "cw" without the
            extra ``baselines``.
    """
    if settings.method == "cw":  # a library's own loop
        found, each = transferable(surrogates, images, labels, keys, settings)
        return Attacked(found, each)
    eps = settings.eps / 255
    images = images.contiguous(memory_format=torch.channels_last)  # several times faster on a CPU
    passes = Passes(surrogates, images, labels, keys, settings, bank)
    direction = DIRECTIONS[settings.method](passes, settings)
    x, memory = images.clone(), torch.zeros_like(images)
    if settings.start:
        x = into_ball(x + eps * (2 * noise(images, keys, settings.seed, "start") - 1), images, eps)
    for step in range(settings.steps):
        ahead = x + settings.alpha * settings.decay * memory if settings.nesterov else x
        gradient = direction(ahead, step)
        if settings.kernel:
            gradient = transforms.smooth(gradient, settings.kernel)
        scale = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(TINY)
        memory = settings.decay * memory + gradient / scale
        x = into_ball(x + settings.alpha * memory.sign(), images, eps)
    return Attacked(x, passes.count)


def noise(images: Tensor, keys: Sequence[str], seed: int, *stream: str | int) -> Tensor:
    """Uniform noise in [0, 1) of the images' shape, each image's own."""
    flat = transforms.draw(keys, images[0].numel(), seed, *stream)
    return flat.reshape(images.shape).to(images)
