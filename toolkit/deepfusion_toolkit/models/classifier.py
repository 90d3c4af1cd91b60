"""The one shape in which every model is used: a Classifier."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.files import replacing
from deepfusion_toolkit.models.resize import resized
from deepfusion_toolkit.surgery.graph import export_program


class Normalised(nn.Module):
    """``net((image - mean) / std)``; mean and std per RGB channel, in [0, 1] units."""

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """RGB [N, 3, H, W] in [0, 1] -> logits [N, C]."""
        return self.net((image - self.mean) / self.std)  # type: ignore[no-any-return]


class Scores(nn.Module):
    """The ``logits`` of a network that names its outputs, as the transformers library does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """RGB [N, 3, H, W] in [0, 1] -> logits [N, C]."""
        return self.net(image).logits  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """A frozen network with RGB inputs in [0, 1].

    Attributes:
        name: what people call it in tables.
        core: the network for its own input size, normalisation inside; what surgery works on.
        size: that input size, (height, width).
        classes: number of outputs.
        spec: what it was loaded from, for another process to load it again; None if it was not.
    """

    def __init__(self, core: nn.Module, *, name: str, size: tuple[int, int]) -> None:
        super().__init__()
        self.name, self.size = name, size
        self.spec: str | None = None
        self.core = core.requires_grad_(False)
        if not isinstance(
            core, torch.fx.GraphModule
        ):  # exported programs are in eval mode for good
            self.core.eval()
        with torch.no_grad():
            try:
                logits = self.core(torch.full((2, 3, *size), 0.5))
            except (RuntimeError, TypeError, ValueError, AssertionError) as error:
                first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
                raise ModelError(
                    f"model {name} does not run on RGB images of {size[0]}x{size[1]} ({first})",
                    "give a classifier for [N, 3, H, W] inputs with a dynamic batch",
                ) from error
        named = getattr(logits, "logits", None)
        if isinstance(named, Tensor):
            self.core, logits = Scores(self.core), named
        if (
            not isinstance(logits, Tensor)
            or logits.ndim != 2  # noqa: PLR2004 - images and classes
            or logits.shape[0] != 2  # noqa: PLR2004
            or logits.shape[1] < 2  # noqa: PLR2004
        ):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"model {name} gives {shape} for two images, class scores are (2, C)",
                "give a model that ends in its logits",
            )
        self.classes = int(logits.shape[1])

    def fit(self, image: Tensor) -> Tensor:
        """Resize [N, 3, H, W] to the model's own size."""
        return resized(image, self.size)

    def forward(self, image: Tensor) -> Tensor:
        """RGB [N, 3, H, W] in [0, 1], any H and W -> logits [N, C]."""
        return self.core(self.fit(image))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "Classifier":  # noqa: ARG002 - nn.Module's signature
        """A classifier stays in evaluation mode; training builds its own module."""
        self.training = False
        return self


def save(core: nn.Module, size: tuple[int, int], path: Path) -> None:
    """Write a network as ``.pt2`` (torch.export, dynamic batch), all or nothing."""
    program = export_program(core, (torch.full((2, 3, *size), 0.5),), batch_of=(0,))
    with replacing(path) as partial:
        torch.export.save(program, partial)
