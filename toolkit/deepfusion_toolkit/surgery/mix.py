"""Clean-feature mix-up: maps of an attacked image take in a share of a clean image's maps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from deepfusion_toolkit.surgery.graph import CONVOLUTIONS


class Mixer(nn.Module):
    """The places of one network where features are mixed (CFM, Byun et al., CVPR 2023).

    Attributes:
        channels: of each place, in order.
        clean: recorded maps [N, C, H, W] of each place.
        shares: [N, C] of each place in [0, 1], or None: nothing is mixed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.channels: list[int] = []
        self.clean: list[Tensor] = []
        self.shares: list[Tensor] | None = None
        self._recording = False

    def forward(self, value: Tensor, place: int) -> Tensor:
        """Record the value, mix it, or let it through."""
        if self._recording:
            self.clean.append(value.detach())
        elif self.shares is not None:
            share = self.shares[place][:, :, None, None]
            return torch.lerp(value, self.clean[place], share)
        return value

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the maps of what passes meanwhile; nothing is mixed."""
        self.clean, self.shares, self._recording = [], None, True
        try:
            yield
        finally:
            self._recording = False


def mix(module: GraphModule) -> Mixer:
    """Put a mixer behind every convolution whose result is a map [N, C, H, W]."""
    mixer = Mixer()
    module.add_submodule("mixer", mixer)
    for node in list(module.graph.nodes):
        value = node.meta.get("val")
        if node.target not in CONVOLUTIONS or not isinstance(value, Tensor) or value.ndim != 4:  # noqa: PLR2004
            continue
        users = list(node.users)
        with module.graph.inserting_after(node):
            mixed = module.graph.call_module("mixer", (node, len(mixer.channels)))
        mixer.channels.append(int(value.shape[1]))
        for user in users:
            user.replace_input_with(node, mixed)
    module.recompile()
    return mixer
