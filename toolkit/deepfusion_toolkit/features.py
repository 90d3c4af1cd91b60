"""Where feature-space fusion taps a network: a late, semantically rich map before the pooling."""

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.surgery.graph import Erodible, trace
from deepfusion_toolkit.surgery.rows import shape_of
from deepfusion_toolkit.surgery.sites import ACTIVATIONS, SUMS

DEPTH = 0.7
"""Share of weighted operators before the tap. FIA and its kin attack middle to late layers (Conv3_3
of VGG-16, block 2 of ResNet-152), where features are shared between networks and still spatial."""


def choose_tap(base: Erodible, depth: float = DEPTH) -> str:
    """Name the node closest to a depth, among block outputs and activations with channels.

    Raises:
        ModelError: the network has neither.
    """
    traced = trace(base.core, base.size)
    total = traced.weighted_in(traced.ancestors[traced.logits])
    candidates = [
        (abs(traced.weighted_in(traced.ancestors[node]) / max(total, 1) - depth), at, node)
        for at, node in enumerate(traced.inside)
        if node.target in (ACTIVATIONS | SUMS)
        and node in traced.channel
        and len(shape_of(node) or ()) > 2  # noqa: PLR2004 - maps and tokens, not pooled vectors
    ]
    if not candidates:
        raise ModelError(
            f"model {base.name} has no layer to tap for feature-space fusion",
            "set --feature-weight 0",
        )
    return min(candidates)[2].name
