"""The surrogates as other people's attacks want them: one plain network that counts its passes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.surgery import ErodedModel


@dataclass
class Spent:
    """What attacks have cost so far; grows with every call of a ``MeanLogits``.

    Attributes:
        passes: forward passes that recorded a gradient for the image, one per image and surrogate.
            Every attack of this package goes backward once through each.
        queries: forward passes without a gradient, one per image and surrogate: line searches,
            random search, and the checks of the libraries.
    """

    passes: int = 0
    queries: int = 0


class MeanLogits(nn.Module):
    """The mean of the surrogates' logits, none of them eroded: all factors are ones.

    Attributes:
        spent: the passes and queries of every ``forward`` so far.
    """

    def __init__(self, surrogates: Sequence[ErodedModel], spent: Spent | None = None) -> None:
        """Wrap surrogates.

        Args:
            surrogates: at least one, with the same classes in the same order.
            spent: counts on from here; a new ``Spent`` if None.

        Raises:
            UsageError: there is no surrogate.
        """
        super().__init__()
        if not surrogates:
            raise UsageError("an attack needs at least one surrogate, has 0", "name a model")
        self.surrogates = nn.ModuleList(surrogates)
        self.widths = [surrogate.width for surrogate in surrogates]
        self.spent = Spent() if spent is None else spent
        self._classes = 0
        self.train()

    def classes(self, image: Tensor) -> int:
        """Return C, from one query with the given [1, 3, H, W] the first time."""
        if not self._classes:
            with torch.no_grad():
                self._classes = self(image).shape[1]
        return self._classes

    def forward(self, image: Tensor) -> Tensor:
        """RGB [N, 3, H, W] in [0, 1] -> mean logits [N, C]."""
        cost = len(image) * len(self.surrogates)
        if torch.is_grad_enabled() and image.requires_grad:
            self.spent.passes += cost
        else:
            self.spent.queries += cost
        logits = [
            surrogate(image, image.new_ones(len(image), width)).logits
            for surrogate, width in zip(self.surrogates, self.widths, strict=True)
        ]
        return torch.stack(logits).mean(0)

    def train(self, mode: bool = True) -> "MeanLogits":  # noqa: ARG002 - nn.Module's signature
        """Surrogates stay in evaluation mode, whatever a library asks for."""
        self.training = False
        return self
