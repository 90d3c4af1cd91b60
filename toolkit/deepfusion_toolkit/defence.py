"""The defended model as the device runs it: K eroded members, fused, scored and judged."""

from collections.abc import Sequence

import torch

from deepfusion_edge.erosion import Site, sample, stream_of
from deepfusion_edge.fusion import Outputs, Thresholds, Verdict, feature_variance, fuse, judge
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.surgery import ErodedModel


def run_members(
    model: ErodedModel, image: torch.Tensor, *, seed: int, key: str, members: int
) -> Outputs:
    """Run one image [1, 3, H, W] through K members; factors depend on the seed and the key."""
    drawn = sample(model.sites, seed=seed, stream=stream_of("evaluate", key), members=members)
    with torch.no_grad():
        seen = model(image, torch.from_numpy(drawn))
    probabilities = seen.logits.softmax(1).numpy()
    return Outputs(fuse(probabilities), probabilities, feature_variance(seen.features.numpy()))


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
    with progress("fused predictions", len(dataset), shown=shown) as advance:
        for item in dataset.items:
            image = folder.images_as_input(dataset, [item], *model.size)
            outputs = run_members(model, image, seed=seed, key=item.file, members=members)
            found.append(judge(outputs, thresholds))
            advance(1)
    return found


def scaled(sites: Sequence[Site], factor: float) -> tuple[Site, ...]:
    """The same sites with all strengths multiplied, below 1."""
    return tuple(Site(s.name, s.kind, s.channels, min(s.strength * factor, 0.95)) for s in sites)
