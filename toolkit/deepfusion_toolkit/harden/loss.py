"""What training minimises: wrong answers of every member, and scores in the wrong order."""

from math import log

from torch import Tensor
from torch.nn import functional

TINY = 1e-12
MARGIN = log(8.0)
"""By what factor an attacked image's feature variance shall exceed a clean one's."""
WEIGHT = 0.5


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


def loss_of(
    logits: Tensor, features: Tensor, wanted: Tensor, attacked: int, temperature: float
) -> Tensor:
    """Cross-entropy of all members, and the ranking of their scores.

    Clean and attacked images weigh the same, however many there are of each.

    Args:
        logits: [K, N, C] of K members.
        features: [K, N, D].
        wanted: probabilities [N, C].
        attacked: how many of the N images are, at the end.
        temperature: by which logits are divided (Hinton et al., 2015); 1 leaves them.
    """
    members, count, classes = logits.shape
    flat = logits.reshape(members * count, classes) / temperature
    each = functional.cross_entropy(flat, wanted.repeat(members, 1), reduction="none")
    if not attacked:
        return each.mean()
    clean, moved = each.view(members, count).tensor_split([count - attacked], 1)
    right = (clean.mean() + moved.mean()) / 2
    return right + WEIGHT * ranking(relative_variance(features), attacked)
