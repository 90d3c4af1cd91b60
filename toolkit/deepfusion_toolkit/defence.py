"""The defended model as the device runs it: K eroded members, fused, scored and judged."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfusion_edge.erosion import Site, sample, stream_of
from deepfusion_edge.fusion import MEAN, FusionRule, Outputs, Thresholds, Verdict, judge
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.fuse import fuse, relative_variance
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.surgery import ErodedModel


class Fused(NamedTuple):
    """What a defence sees: fused [N, C] and members' [N, M, C] probabilities, variance [N].

    The exported graph has one image and no dimension for it.
    """

    fused: Tensor
    members: Tensor
    feature_variance: Tensor


class Defended(nn.Module):
    """An eroded model and its fusion rule as one differentiable network.

    The rule and the scores are those of ``deepfusion_edge.fusion``, which is the reference.
    """

    def __init__(self, eroded: ErodedModel, *, rule: FusionRule = MEAN) -> None:
        super().__init__()
        self.eroded, self.rule = eroded, rule
        self.size = eroded.size

    def forward(self, images: Tensor, factors: Tensor) -> Fused:
        """Fuse the members of each image.

        Args:
            images: [N, 3, H, W] in [0, 1].
            factors: [N, K, F], see ``draw``.
        """
        count, members, width = factors.shape
        # one image alone is broadcast at the first eroded layer: what is before runs once
        shown = images if count == 1 else images.repeat_interleave(members, 0)
        logits, features, *_ = self.eroded(shown, factors.reshape(-1, width))
        return combined(
            logits.view(count, members, -1), features.view(count, members, -1), self.rule
        )

    def draw(
        self, keys: Sequence[str], *, seed: int, members: int, stream: str = "evaluate"
    ) -> Tensor:
        """Factors [N, K, F]: an image's own depend on the seed, the stream and its key alone."""
        drawn = [
            sample(self.eroded.sites, seed=seed, stream=stream_of(stream, key), members=members)
            for key in keys
        ]
        return torch.stack([torch.from_numpy(factors) for factors in drawn])


def combined(logits: Tensor, features: Tensor, rule: FusionRule) -> Fused:
    """From what members see, [..., M, C] and [..., M, D], to what the defence sees."""
    members = logits.softmax(-1)
    return Fused(fuse(members, rule), members, relative_variance(features))


def run_members(model: Defended, image: Tensor, *, seed: int, key: str, members: int) -> Outputs:
    """Run one image [1, 3, H, W] through K members; factors depend on the seed and the key."""
    with torch.no_grad():
        seen = model(image, model.draw([key], seed=seed, members=members))
    return Outputs(seen.fused[0].numpy(), seen.members[0].numpy(), float(seen.feature_variance))


def verdicts(
    defended: Defended,
    dataset: Dataset,
    *,
    members: int,
    thresholds: Thresholds | None,
    seed: int,
    shown: bool = True,
) -> list[Verdict]:
    """Judge every image of a data set, in order, with factors of its own."""
    found = []
    with progress("fused predictions", len(dataset), shown=shown) as advance:
        for item in dataset.items:
            image = folder.images_as_input(dataset, [item], *defended.size)
            outputs = run_members(defended, image, seed=seed, key=item.file, members=members)
            found.append(judge(outputs, thresholds))
            advance(1)
    return found


def scaled(sites: Sequence[Site], factor: float) -> tuple[Site, ...]:
    """The same sites with all strengths multiplied, below 1."""
    return tuple(Site(s.name, s.kind, s.channels, min(s.strength * factor, 0.95)) for s in sites)
