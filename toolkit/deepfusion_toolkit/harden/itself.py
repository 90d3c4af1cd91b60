"""Attacks on the model in training, as it is then."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from deepfusion_edge.erosion import MAX_SEED
from deepfusion_toolkit import attacks
from deepfusion_toolkit.defence import Defended
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
    """Attacks the model as it is now by PGD, each image through a member of its own."""

    model: Defended
    settings: Settings
    steps: int
    attack: attacks.Settings = field(init=False)

    def __post_init__(self) -> None:
        eps, seed = self.settings.eps, self.settings.seed
        plain = attacks.settings_for("pgd", passes=self.steps, surrogates=1, eps=eps, seed=seed)
        # a single step goes further than eps: from a random start, most pixels end at the bound
        step = max(plain.step_size or 0.0, REACH * eps / self.steps)
        self.attack = replace(plain, erosion=1.0, step_size=step)

    def __call__(self, images: Images, draw: torch.Generator) -> Tensor:
        """Attacked images [N, 3, H, W] in [0, 1], whole steps of 1/255."""
        seed = int(torch.randint(MAX_SEED, (1,), generator=draw))
        device = next(self.model.parameters()).device
        made = attacks.attack(
            [FusedNetwork(self.model, 1)],
            (images.pixels / 255).to(device),
            images.labels.to(device),
            images.keys,
            replace(self.attack, seed=seed),
        )
        return torch.round(made.images.cpu() * 255) / 255
