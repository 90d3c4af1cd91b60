"""Other people's attacks on one image at a time, each with random numbers of its own."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from deepfusion_edge.erosion import stream_of
from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.attacks.projections import into_ball
from deepfusion_toolkit.attacks.settings import Settings

Attack = Callable[[Tensor, Tensor, int], Tensor]
"""(image [1, 3, H, W] in [0, 1], label [1], seed in [0, 2**32)) -> [1, 3, H, W], any distance."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy's legacy generator and ``random``; afterwards they are as before.

    Args:
        seed: in [0, 2**32), the range of numpy's.
    """
    numbers, words = np.random.get_state(), random.getstate()  # noqa: NPY002 - the libraries use it
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numbers)  # noqa: NPY002
            random.setstate(words)


def one_by_one(
    name: str,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    keys: Sequence[str],
    settings: Settings,
) -> Tensor:
    """Attack each image alone and project the result into its budget.

    Args:
        name: of the attack, so that two attacks do not share random numbers.
        attack: see ``Attack``.
        images: clean, [N, 3, H, W] in [0, 1].
        labels: [N].
        keys: N names; an image's random numbers depend on the seed and its name alone.
        settings: its ``eps`` and ``seed`` are used.

    Returns:
        [N, 3, H, W] in [0, 1], within epsilon in the L-infinity norm; not yet rounded.

    Raises:
        ModelError: the attack returned numbers that are not finite.
    """
    found = []
    for index, key in enumerate(keys):
        image = images[index : index + 1].contiguous()
        seed = stream_of(name, settings.seed, key) % 2**32
        with seeded(seed):
            moved = attack(image.clone(), labels[index : index + 1], seed)
        if not torch.isfinite(moved).all():
            raise ModelError(
                f"{name} found no finite image for {key}", "check the weights of the surrogates"
            )
        found.append(into_ball(moved.detach().to(image), image, settings.eps / 255))
    return torch.cat(found) if found else images.clone()
