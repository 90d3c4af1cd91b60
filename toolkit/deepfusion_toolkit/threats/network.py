"""The defence as attackers see it: networks for the one attack loop and for the libraries."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepfusion_edge.erosion import MAX_SEED, Kind, Site, stream_of, width
from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import TINY
from deepfusion_toolkit.defence import Defended, Fused
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.surgery import ErodedModel, Seen, erode, find_sites, share_before
from deepfusion_toolkit.surgery.graph import Traced, trace
from deepfusion_toolkit.surgery.sites import find

FLOOR = 1e-30
"""Probabilities below this one count as this one: a logarithm stays finite."""


def seed_of(attacker: str, seed: int) -> int:
    """Derive an attacker's own seed: nobody who judges draws from it."""
    return stream_of("attacker", attacker, seed) % MAX_SEED


def log_probabilities(fused: Tensor) -> Tensor:
    """Logits [N, C] whose softmax is the fused prediction [N, C], whatever rule fused it."""
    return fused.clamp_min(FLOOR).log().log_softmax(1)


def log_scores(seen: Fused) -> Tensor:
    """Sum [N] of the logarithms of both scores, differentiable: what an evader keeps low.

    Feature variance and disagreement are those of ``deepfusion_edge.fusion``.
    """
    members = seen.members
    mean = members.mean(1)
    entropy_of_mean = -(mean * (mean + TINY).log()).sum(1)
    mean_entropy = -(members * (members + TINY).log()).sum(2).mean(1)
    disagreement = (entropy_of_mean - mean_entropy).clamp_min(1e-7)  # float32 sees no less
    return (seen.feature_variance + 1e-7).log() + disagreement.log()


def _as_it_is(image: Tensor) -> Tensor:
    return image


class _Network(ErodedModel):
    """Something that answers like an eroded model; its draws are those of ``sites``.

    Images keep their size: what answers resizes them itself, in its own way.
    """

    def __init__(self, name: str, size: tuple[int, int], sites: tuple[Site, ...]) -> None:
        nn.Module.__init__(self)
        self.name, self.size, self.sites = name, size, sites
        self.width, self.tapped, self.fit = width(sites), (), _as_it_is

    def finite(self, logits: Tensor) -> Tensor:
        """Pass logits on.

        Raises:
            ModelError: they are not finite.
        """
        if not torch.isfinite(logits).all():
            raise ModelError(f"{self.name} gives scores that are not finite", "check its weights")
        return logits


class FusedNetwork(_Network):
    """The whole fused output as one network of the attack loop; a draw is K rows of factors.

    Attributes:
        sites: the defence's, K times: ``erosion.sample`` then draws K independent members.
        evading: weight of the scores. They shift all logits alike, which changes neither prediction
            nor cross-entropy, but the loss "logit", then ``log p_y + evading * log scores``.
    """

    def __init__(self, defended: Defended, members: int, *, evading: float = 0.0) -> None:
        super().__init__(defended.name, defended.size, defended.sites * members)
        self.defended, self.members, self.evading = defended, members, evading

    def forward(self, image: Tensor, factors: Tensor) -> Seen:
        """RGB [N, 3, H, W] in [0, 1] and factors [N, K * F] -> log fused probabilities, scores."""
        seen = self.defended(image, factors.view(len(factors), self.members, -1))
        scores = log_scores(seen)[:, None]
        logits = self.finite(log_probabilities(seen.fused))
        return Seen(logits + self.evading * scores if self.evading else logits, scores, ())


class PlainNetwork(_Network):
    """Plain models, their probabilities averaged, as one network of the attack loop."""

    def __init__(self, models: Sequence[Classifier]) -> None:
        super().__init__(models[0].name, models[0].size, ())
        self.models = nn.ModuleList(models)

    def forward(self, image: Tensor, factors: Tensor) -> Seen:  # noqa: ARG002 - there are none
        """RGB [N, 3, H, W] in [0, 1] and factors [N, 0] -> log mean probabilities."""
        mean = torch.stack([model(image).softmax(1) for model in self.models]).mean(0)
        return Seen(self.finite(log_probabilities(mean)), mean, ())


class Fresh(nn.Module):
    """A network that draws its members afresh at every call, from the attacker's stream."""

    def __init__(self, defended: Defended, members: int, *, seed: int) -> None:
        super().__init__()
        self.defended, self.members, self.seed = defended, members, seed
        self.begin("")

    def begin(self, key: str) -> None:
        """Start the stream of an image; its draws depend on the seed, the key and their number."""
        self.key, self.calls = key, 0

    def forward(self, images: Tensor) -> Tensor:
        """RGB [N, 3, H, W] in [0, 1] -> log fused probabilities [N, C]."""
        self.calls += 1
        keys = [f"{self.key}/{self.calls}/{row}" for row in range(len(images))]
        factors = self.defended.draw(keys, seed=self.seed, members=self.members, stream="attacker")
        return log_probabilities(self.defended(images, factors.to(images.device)).fused)


class _Fixed(nn.Module):
    """One draw for every image."""

    def __init__(self, defended: Defended, factors: Tensor) -> None:
        super().__init__()
        self.defended = defended
        self.factors: Tensor
        self.register_buffer("factors", factors)

    def forward(self, images: Tensor) -> Tensor:
        return log_probabilities(
            self.defended(images, self.factors.expand(len(images), -1, -1)).fused
        )


def fixed(defended: Defended, members: int, *, seed: int) -> Classifier:
    """The deterministic version: one draw, the same for every image, and the attacker knows it."""
    factors = defended.draw(["fixed"], seed=seed, members=members, stream="fixed")
    name = f"{defended.name}, one fixed draw of {members}"
    return Classifier(_Fixed(defended, factors), name=name, size=defended.size)


def defended_like(plan: Plan, model: Classifier) -> Defended:
    """What an attacker who knows the defence makes of a model of its own.

    The plan's preprocessing, fusion rule and kinds of erosion at the plan's strengths, from about
    the plan's split point on; a model without these kinds gets its activations eroded.
    """
    traced = trace(model.core, model.size)
    available = {found.kind for found in find(traced)}
    strength: dict[Kind, float] = {}
    for site in plan.sites:
        strength[site.kind] = max(site.strength, strength.get(site.kind, 0.0))
    kinds: set[Kind] = set(strength) & available or {"activation"}
    usual = max(strength.values())
    sites = find_sites(traced, kinds, {kind: strength.get(kind, usual) for kind in kinds})
    late = _late(traced, sites, plan.prefix_share)
    return Defended(erode(model, late), rule=plan.fusion, stages=plan.preprocess)


def _late(traced: Traced, sites: tuple[Site, ...], shared: float) -> tuple[Site, ...]:
    """The sites behind the given share of the multiply-adds; the last one at least."""
    for first in range(len(sites)):
        if share_before(traced, sites[first:]) >= shared:
            return sites[first:]
    return sites[-1:]
