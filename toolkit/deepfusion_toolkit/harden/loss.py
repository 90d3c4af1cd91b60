"""What training minimises: wrong answers, scores in the wrong order, attacks that go unseen."""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TINY = 1e-12
MARGIN = log(8.0)
"""By what factor an attacked image's feature variance shall exceed a clean one's."""
WEIGHT = 0.5
"""Of the ranking, and of the detector, beside the cross-entropy."""
LIGHT = 0.1
"""What cross-entropy weighs as long as the detector comes first: enough to forget no class."""


class Loss(NamedTuple):
    """Its parts; the last two are zero where nothing is attacked.

    Attributes:
        right: cross-entropy of all members.
        ranked: see :func:`ranking`.
        detected: see :func:`detection`.
    """

    right: Tensor
    ranked: Tensor
    detected: Tensor

    def total(self, *, detector_first: bool) -> Tensor:
        """The sum that is minimised.

        With full cross-entropy from the start its gradient drowns that of the perturbation, which
        is small and the same for no two images: on CIFAR-10 nothing is learned of it for thousands
        of steps, and features that know it are what the ranking needs to begin with.
        """
        if detector_first:
            return self.detected + LIGHT * self.right
        return self.right + WEIGHT * (self.ranked + self.detected)


def relative_variance(features: Tensor) -> Tensor:
    """The score of ``deepfusion_edge.fusion`` over members, [K, N, D] -> [N], differentiable."""
    spread = features.var(0, correction=0).sum(1)
    return spread / (features.mean(0).square().sum(1) + TINY)


def ranking(variance: Tensor, attacked: int) -> Tensor:
    """Hinge on every pair of a clean and an attacked image: their scores differ by the margin.

    LiBRe (Deng et al., CVPR 2021) raises the variance of attacked images above a constant; here it
    is raised above that of clean ones, because what is a large variance depends on the network.

    Args:
        variance: [N], of clean images, then of attacked ones.
        attacked: how many those are.
    """
    logs = (variance + TINY).log()
    clean, moved = logs[:-attacked], logs[-attacked:]
    return functional.relu(MARGIN - (moved[:, None] - clean[None])).mean()


def detection(told: Tensor, attacked: int) -> Tensor:
    """Cross-entropy of a detector; clean and attacked images weigh the same.

    Args:
        told: [K, N], how sure it is that an image is attacked, as a logit; attacked ones last.
        attacked: how many those are.
    """
    clean, moved = told.tensor_split([told.shape[1] - attacked], 1)
    return (functional.softplus(clean).mean() + functional.softplus(-moved).mean()) / 2


def loss_of(
    logits: Tensor,
    features: Tensor,
    told: Tensor,
    wanted: Tensor,
    attacked: int,
    scored: int,
    temperature: float,
    weight: float = 0.5,
) -> Loss:
    """Cross-entropy of all members, the ranking of their scores, and the detector's own loss.

    What clean and attacked images weigh does not depend on how many there are of each.

    Args:
        logits: [K, N, C] of K members.
        features: [K, N, D].
        told: [K, N], what a detector makes of the features, see :func:`detection`.
        wanted: probabilities [N, C].
        attacked: how many of the N images are, at the end.
        scored: how many of these, at the end, shall be noticed; the others only be right.
        temperature: by which logits are divided (Hinton et al., 2015); 1 leaves them.
        weight: of the attacked images in the cross-entropy, in [0, 1]; clean ones have the rest.
    """
    members, count, classes = logits.shape
    flat = logits.reshape(members * count, classes) / temperature
    each = functional.cross_entropy(flat, wanted.repeat(members, 1), reduction="none")
    if not attacked:
        return Loss(each.mean(), each.new_zeros(()), each.new_zeros(()))
    clean, moved = each.view(members, count).tensor_split([count - attacked], 1)
    places = torch.arange(count, device=logits.device)
    judged = places[(places < count - attacked) | (places >= count - scored)]
    return Loss(
        torch.lerp(clean.mean(), moved.mean(), weight),
        ranking(relative_variance(features[:, judged]), scored),
        detection(told[:, judged], scored),
    )
