"""Gradients of fused surrogates: the one place where an attack runs networks and counts passes.

Deep fusion proper: surrogates are eroded afresh for each pass, fused in output space (mean of
logits) and in feature space (the gradient at a tapped layer is joined by the memory of earlier,
differently eroded gradients there). A pass is one forward and one backward of one surrogate for one
image. Minigroups keep no more than ``group`` networks' activations at a time: the logits of the
others are those of their last pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_edge.erosion import sample, stream_of
from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_toolkit.attacks import transforms
from deepfusion_toolkit.attacks.compiled import compiling
from deepfusion_toolkit.attacks.settings import Settings
from deepfusion_toolkit.surgery import ErodedModel
from deepfusion_toolkit.surgery.mix import Mixer
from deepfusion_toolkit.surgery.trouble import first_not_finite

TINY = 1e-12
MIXED_PLACES = 0.1
"""Share of the places that one pass mixes (CFM)."""


class Passes:
    """What an attack on one batch asks of its surrogates.

    Attributes:
        count: passes per image so far.
        confidence: probability [N] that each surrogate's last pass gave the label.
        draw: how many draws were made; each has its own erosion and transforms.
    """

    def __init__(
        self,
        surrogates: Sequence[ErodedModel],
        clean: Tensor,
        labels: Tensor,
        keys: Sequence[str],
        settings: Settings,
        bank: Tensor | None = None,
    ) -> None:
        self.surrogates, self.keys = list(surrogates), list(keys)
        self.clean, self.labels = clean, labels
        self.settings, self.bank = settings, bank
        self.everyone = range(len(self.surrogates))
        self.count = self.draw = 0
        self.tapped: tuple[Tensor, ...] = ()
        if settings.mixup:
            self.record()
        self.logits: list[Tensor | None] = [None] * len(self.surrogates)
        self.memories: list[Tensor | None] = [None] * len(self.surrogates)
        self.confidence: list[Tensor] = [labels.float()] * len(self.surrogates)

    def record(self) -> None:
        """One clean forward of every image's partner through every surrogate; counts as a pass.

        Raises:
            UsageError: there is no other image.
        """
        if self.bank is None:
            raise UsageError("mix-up has no other image to take from", "give two images or more")
        which = transforms.draw(self.keys, 1, self.settings.seed, "partner")[:, 0]
        partners = self.bank[(which * len(self.bank)).long().to(self.bank.device)]
        for surrogate in self.surrogates:
            self.count += 1
            ones = torch.ones(len(self.keys), surrogate.width).to(partners)
            with torch.no_grad(), mixer_of(surrogate).recording():
                surrogate(partners, ones)

    def mix(self, index: int) -> None:
        """Draw for each image and channel what share of the partner's maps one pass takes in."""
        mixer = mixer_of(self.surrogates[index])
        total = sum(mixer.channels)
        stream = (self.draw, index)
        u = transforms.draw(self.keys, total, self.settings.seed, "mixup", *stream)
        where = transforms.draw(
            self.keys, len(mixer.channels), self.settings.seed, "mixed", *stream
        )
        shares = (self.settings.mixup * u).split(mixer.channels, dim=1)
        mixer.shares = [
            (share * (where[:, place : place + 1] < MIXED_PLACES)).to(self.clean)
            for place, share in enumerate(shares)
        ]

    def group(self, step: int) -> Sequence[int]:
        """Surrogates of a step: all, or the next minigroup in turn."""
        size, all_of = self.settings.group, len(self.surrogates)
        if size == 0 or size >= all_of:
            return self.everyone
        return [(step * size + k) % all_of for k in range(size)]

    def gradient(self, x: Tensor, members: Sequence[int], weights: Tensor | None = None) -> Tensor:
        """Gradient [N, 3, H, W] of what is climbed, for a new draw and one pass of each member.

        Args:
            x: [N, 3, H, W] in [0, 1].
            members: numbers of the surrogates that pass; the others count with their last logits.
            weights: of all surrogates, instead of their mean; then no logits are remembered.

        Raises:
            ModelError: a surrogate's logits or the gradient are not finite.
        """
        leaf = x.detach().requires_grad_(True)
        with compiling(self.settings.compile):
            now = {m: self.see(leaf, m) for m in members}
        fused: list[Tensor] = []
        for index in self.everyone:
            logits = now.get(index, self.logits[index] if weights is None else None)
            if logits is not None:
                fused.append(logits if weights is None else logits * weights[index])
        mean = torch.stack(fused).mean(0) if weights is None else torch.stack(fused).sum(0)
        with compiling(self.settings.compile):
            (gradient,) = torch.autograd.grad(self.objective(mean), leaf)
        self.draw += 1
        if weights is None:
            for index, logits in now.items():
                self.logits[index] = logits.detach()
        self.require_finite(gradient, members)
        return gradient

    def see(self, leaf: Tensor, index: int, masked: Tensor | None = None) -> Tensor:
        """Logits [N, C] of one surrogate for one draw; counts the pass."""
        surrogate, settings = self.surrogates[index], self.settings
        self.count += 1
        image = surrogate.fit(leaf if masked is None else leaf * masked)
        if settings.transforms:
            bank = None if self.bank is None else surrogate.fit(self.bank)
            stream = (self.draw, index)
            image = transforms.apply(
                image, settings.transforms, self.keys, settings.seed, stream, bank
            )
        if settings.mixup:
            self.mix(index)
        factors = self.factors(index).to(image)
        low = settings.precision == "bf16"
        with torch.autocast(image.device.type, torch.bfloat16, enabled=low):
            seen = surrogate(image, factors)
        logits: Tensor = seen.logits.float()
        if settings.feature_weight and seen.taps and settings.method == "fusion":
            remember(seen.taps[0], self.memories, index, settings.feature_weight, settings.adaptive)
        if not torch.isfinite(logits).all():
            layer = first_not_finite(surrogate, image, factors)
            raise ModelError(
                f"surrogate {surrogate.name} gives scores that are not finite, first at layer "
                f"'{layer}'",
                "check its weights there; erode it less with --erosion",
            )
        chance = logits.detach().softmax(1).gather(1, self.labels[:, None])[:, 0]
        self.confidence[index] = chance
        self.tapped = seen.taps
        return logits

    def tap_gradient(self, x: Tensor, index: int, mask: Tensor) -> Tensor:
        """Gradient of the label's logit at the tap, for the image under a mask [N, 3, H, W]."""
        self.draw += 1
        logits = self.see(x.detach().requires_grad_(True), index, mask)
        climbed = logits.gather(1, self.labels[:, None]).sum()
        return torch.autograd.grad(climbed, self.tapped[0])[0]

    def weighted_features(self, x: Tensor, index: int, importance: Tensor) -> Tensor:
        """Gradient [N, 3, H, W] of minus the tapped features weighted by their importance."""
        leaf = x.detach().requires_grad_(True)
        self.draw += 1
        self.see(leaf, index)
        sign = 1 if self.settings.targeted else -1
        climbed = sign * (self.tapped[0] * importance).sum()
        (gradient,) = torch.autograd.grad(climbed, leaf)
        self.require_finite(gradient, [index])
        return gradient

    def factors(self, index: int) -> Tensor:
        """Erosion factors [N, F] of this draw; ones without erosion."""
        surrogate = self.surrogates[index]
        if not self.settings.erosion:
            return torch.ones(len(self.keys), surrogate.width)
        rows = [
            sample(
                surrogate.sites,
                seed=self.settings.seed,
                stream=stream_of("craft", key, self.draw, index),
                members=1,
            )
            for key in self.keys
        ]
        return torch.cat([torch.from_numpy(row) for row in rows])

    def objective(self, logits: Tensor) -> Tensor:
        """What is climbed, summed over images, for the fused logits [N, C]."""
        settings = self.settings
        sign = -1 if settings.targeted else 1
        if (settings.loss or ("logit" if settings.targeted else "ce")) == "logit":
            return -sign * logits.gather(1, self.labels[:, None]).sum()
        return sign * functional.cross_entropy(logits, self.labels, reduction="sum")

    def require_finite(self, gradient: Tensor, members: Sequence[int]) -> None:
        """Refuse a gradient that is not finite, naming who passed."""
        if not torch.isfinite(gradient.sum()):  # pixel by pixel costs a hundredth of an attack
            names = ", ".join(self.surrogates[m].name for m in members)
            raise ModelError(
                f"the gradient of {names} is not finite",
                "check the weights; erode less with --erosion",
            )


def remember(
    tap: Tensor, memories: list[Tensor | None], index: int, weight: float, adaptive: bool = False
) -> None:
    """Join the tap's gradient with the memory of earlier ones, at ``weight`` of its own size.

    Adaptive: times the cosine between both, per image, and not at all where they disagree.
    """

    def fuse(gradient: Tensor) -> Tensor:
        dims = tuple(range(1, gradient.ndim))
        size = gradient.abs().sum(dims, keepdim=True)
        unit = gradient / size.clamp_min(TINY)
        before = memories[index]
        memories[index] = unit if before is None else before + unit
        if before is None:
            return gradient
        importance = before / before.abs().sum(dims, keepdim=True).clamp_min(TINY)
        share: float | Tensor = weight
        if adaptive:
            lengths = gradient.pow(2).sum(dims, keepdim=True) * before.pow(2).sum(
                dims, keepdim=True
            )
            agreement = (gradient * before).sum(dims, keepdim=True) / lengths.sqrt().clamp_min(TINY)
            share = weight * agreement.clamp_min(0)
        return gradient + share * size * importance

    tap.register_hook(fuse)


def mixer_of(surrogate: ErodedModel) -> Mixer:
    """The mixer that ``prepare`` put in."""
    mixer = surrogate.graph_module.get_submodule("mixer")
    assert isinstance(mixer, Mixer)  # noqa: S101 - the name is ours
    return mixer
