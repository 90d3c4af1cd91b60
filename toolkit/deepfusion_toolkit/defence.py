"""The defended model as the device runs it: K eroded members, fused, scored and judged."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfusion_edge.erosion import Site, sample, stream_of
from deepfusion_edge.fusion import TINY, Outputs, Thresholds, Verdict, judge
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.surgery import ErodedModel


class Fused(NamedTuple):
    """What a defence sees: fused [N, C] and members' [N, K, C] probabilities, variance [N]."""

    fused: Tensor
    members: Tensor
    feature_variance: Tensor


class Defended(nn.Module):
    """An eroded model and its fusion rule as one differentiable network.

    The rule and the scores are those of ``deepfusion_edge.fusion``, which is the reference.

    Attributes:
        name: for messages.
        size: of frames (height, width).
        sites: what the F columns of ``factors`` mean, in order.
    """

    def __init__(self, eroded: ErodedModel) -> None:
        super().__init__()
        self.eroded = eroded
        self.name, self.size, self.sites = eroded.name, eroded.size, eroded.sites

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
        probabilities = logits.softmax(1).view(count, members, -1)
        features = features.view(count, members, -1)
        mean = features.mean(1)
        spread = features.var(1, correction=0).sum(1)
        relative = spread / (mean.square().sum(1) + TINY)
        return Fused(probabilities.mean(1), probabilities, relative)

    def draw(
        self, keys: Sequence[str], *, seed: int, members: int, stream: str = "evaluate"
    ) -> Tensor:
        """Factors [N, K, F]: an image's own depend on the seed, the stream and its key alone."""
        drawn = [
            sample(self.sites, seed=seed, stream=stream_of(stream, key), members=members)
            for key in keys
        ]
        return torch.stack([torch.from_numpy(factors) for factors in drawn])


def run_members(model: Defended, image: Tensor, *, seed: int, key: str, members: int) -> Outputs:
    """Run one image [1, 3, H, W] through K members; factors depend on the seed and the key."""
    with torch.no_grad():
        seen = model(image, model.draw([key], seed=seed, members=members))
    return Outputs(seen.fused[0].numpy(), seen.members[0].numpy(), float(seen.feature_variance))


def verdicts(
    model: ErodedModel,
    dataset: Dataset,
    *,
    members: int,
    thresholds: Thresholds | None,
    seed: int,
    shown: bool = True,
) -> list[Verdict]:
    """Judge every image of a data set, in order, with factors of its own."""
    found = []
    defended = Defended(model)
    with progress("fused predictions", len(dataset), shown=shown) as advance:
        for item in dataset.items:
            image = folder.images_as_input(dataset, [item], *model.size)
            outputs = run_members(defended, image, seed=seed, key=item.file, members=members)
            found.append(judge(outputs, thresholds))
            advance(1)
    return found


def scaled(sites: Sequence[Site], factor: float) -> tuple[Site, ...]:
    """The same sites with all strengths multiplied, below 1."""
    return tuple(Site(s.name, s.kind, s.channels, min(s.strength * factor, 0.95)) for s in sites)
