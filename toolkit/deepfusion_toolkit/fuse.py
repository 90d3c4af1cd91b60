"""The device's fusion rules and feature score in torch: differentiable, exportable, any M.

``deepfusion_edge.fusion`` is the reference and says what each rule means. The last two dimensions
are members and classes (or features), so a batch and the exported graph share one function.
"""

import torch
from torch import Tensor

from deepfusion_edge.fusion import TINY, FusionRule, left_out


def fuse(members: Tensor, rule: FusionRule) -> Tensor:
    """Fuse member probabilities [..., M, C] -> [..., C]; M may be free in an exported graph."""
    if rule == "mean-probabilities":
        return members.mean(-2)
    if rule == "mean-logits":
        votes = members.clamp(min=TINY).log().mean(-2, keepdim=True)
        return votes.softmax(-1).squeeze(-2)  # TensorRT has no softmax of a vector
    count = members.shape[-2]
    cut = left_out(rule, count)
    rank = torch.arange(count, device=members.device)
    kept = ((rank >= cut) & (rank < count - cut)).to(members.dtype)
    votes = (members.sort(dim=-2).values * kept[:, None]).sum(-2) / kept.sum()
    # v + TINY in units of TINY: no optimiser can take it for a zero and divide 0 by 0
    votes = votes * (1.0 / TINY) + 1.0
    return votes / votes.sum(-1, keepdim=True)


def relative_variance(features: Tensor) -> Tensor:
    """Relative variance of features [..., K, D] over members -> [...]; 0 where all are 0."""
    mean = features.mean(-2, keepdim=True)
    variance = (features - mean).square().mean(-2).sum(-1)
    scale = 1.0 / TINY  # as above
    return (variance * scale) / (mean.square().sum((-2, -1)) * scale + 1.0)
