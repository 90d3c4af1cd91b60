"""Attacks on the model in training, as it is then, and as it was before."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from deepfusion_edge.erosion import MAX_SEED
from deepfusion_toolkit import attacks
from deepfusion_toolkit.harden.copies import Copy, joined, parted, side_by_side
from deepfusion_toolkit.harden.images import Images
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.threats.network import FusedNetwork

PGD_STEPS = 7
"""Madry et al., ICLR 2018, train on seven."""
OWN_STEPS = 1
"""Beside transfer examples; after Wong et al., ICLR 2020, who train on one."""
REACH = 1.5
"""All steps together go at least so far, in epsilons."""


@dataclass
class OnItself:
    """Attacks the model as it is now by PGD, each image through a member of its own.

    Attributes:
        copies: the model, on each device.
        settings: of hardening.
        steps: of an attack.
        undefended: whether every third batch is attacked on the model as it was before training
            instead, and every third on both: what others craft on plain networks comes nearer to
            that.
    """

    copies: Sequence[Copy]
    settings: Settings
    steps: int
    undefended: bool = False
    attack: attacks.Settings = field(init=False)

    def __post_init__(self) -> None:
        eps, seed = self.settings.eps, self.settings.seed
        plain = attacks.settings_for("pgd", passes=self.steps, surrogates=1, eps=eps, seed=seed)
        # a single step goes further than eps: from a random start, most pixels end at the bound
        step = max(plain.step_size or 0.0, REACH * eps / self.steps)
        self.attack = replace(plain, erosion=1.0, step_size=step)

    def __call__(self, images: Images, draw: torch.Generator) -> Tensor:
        """Attacked images [N, 3, H, W] in [0, 1], whole steps of 1/255."""
        attack = replace(self.attack, seed=int(torch.randint(MAX_SEED, (1,), generator=draw)))
        kind = int(torch.randint(3, (1,), generator=draw)) if self.undefended else 0

        def moved(copy: Copy, places: Tensor) -> Tensor:
            part = images.some(places.tolist())
            clean, labels = (part.pixels / 255).to(copy.device), part.labels.to(copy.device)
            seen = ((copy.model,), (copy.undefended,), (copy.model, copy.undefended))[kind]
            networks = [FusedNetwork(model, 1) for model in seen]
            return attacks.attack(networks, clean, labels, part.keys, attack).images.cpu()

        places = parted(torch.arange(len(images.keys)), len(self.copies))
        made = joined(side_by_side(moved, self.copies, places))
        return torch.round(made * 255) / 255
