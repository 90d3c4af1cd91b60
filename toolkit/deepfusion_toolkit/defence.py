"""The defended model as the device runs it: K eroded members, fused, scored and judged."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfusion_edge.erosion import Site, sample, stream_of
from deepfusion_edge.fusion import MEAN, FusionRule, Outputs, Thresholds, Verdict, judge
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.fuse import fuse, relative_variance
from deepfusion_toolkit.models import Classifier, largest_size, resized
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.preprocess import Preprocessor, Stage
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.surgery import ErodedModel, Seen, erode


class Fused(NamedTuple):
    """What a defence sees: fused [N, C] and members' [N, M, C] probabilities, variance [N].

    The exported graph has one image and no dimension for it.
    """

    fused: Tensor
    members: Tensor
    feature_variance: Tensor


class Defended(nn.Module):
    """Preprocessing, eroded models and their fusion as one differentiable network.

    The rule and the scores are those of ``deepfusion_edge.fusion``, which is the reference. Each of
    B bases runs K members, so M = B * K are fused, base after base; the feature variance is the
    mean of the bases' own.

    Attributes:
        name: for messages.
        bases: the eroded models.
        rule, stages: of fusion, and of preprocessing.
        size: of frames (height, width): the largest input among the bases.
        sites: what the F columns of ``factors`` mean, in order.
        several: whether the bases' own graphs take several images.
    """

    def __init__(
        self, *bases: ErodedModel, rule: FusionRule = MEAN, stages: Sequence[Stage] = ()
    ) -> None:
        super().__init__()
        self.bases = bases
        self._registered = nn.ModuleList(bases)  # a tuple would hide their weights
        self.several = all(base.several for base in bases)
        self.rule, self.stages, self.size = rule, tuple(stages), largest_size(bases)
        self.preprocess = Preprocessor(stages, self.size)
        self.name = " + ".join(base.name for base in bases)
        self.sites = tuple(site for base in bases for site in base.sites)
        self.widths = [base.width for base in bases]

    @classmethod
    def of(cls, models: Sequence[Classifier], plan: Plan, *, several: bool = False) -> "Defended":
        """Erode the plan's models, given in its order, as the plan says; see ``erode``."""
        pairs = zip(models, plan.bases, strict=True)
        bases = (erode(model, base.sites, several=several) for model, base in pairs)
        return cls(*bases, rule=plan.fusion, stages=plan.preprocess)

    def forward(self, images: Tensor, factors: Tensor) -> Fused:
        """Fuse the members of each image.

        Args:
            images: [N, 3, H, W] in [0, 1].
            factors: [N, K, F], see ``draw``.
        """
        count, members, _ = factors.shape
        shown = self.prepared(images)
        return self.combined(
            Seen(
                look.logits.unflatten(0, (count, members)),
                look.features.unflatten(0, (count, members)),
                (),
            )
            for look in self.look(shown, factors.flatten(0, 1))
        )

    def prepared(self, images: Tensor) -> Tensor:
        """From frames [N, 3, H, W] to what the bases see: resized to ``size``, all stages run."""
        found: Tensor = self.preprocess(resized(images, self.size))
        return found

    def look(self, prepared: Tensor, factors: Tensor) -> list[Seen]:
        """What each base's members see of images [N, 3, *size] with factors [N * K, F]."""
        own = factors.split(self.widths, -1)
        return [base(prepared, rows) for base, rows in zip(self.bases, own, strict=True)]

    def combined(self, seen: Iterable[Seen]) -> Fused:
        """From what each base's K members see, [..., K, :], to what the defence sees."""
        looks = list(seen)
        members = torch.cat([look.logits.softmax(-1) for look in looks], -2)
        variance = torch.stack([relative_variance(look.features) for look in looks]).mean(0)
        return Fused(fuse(members, self.rule), members, variance)

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
