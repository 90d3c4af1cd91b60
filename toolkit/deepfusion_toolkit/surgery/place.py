"""Where a site's multiplication is done: on the smallest map that gives the same result."""

from collections.abc import Collection, Sequence
from math import prod
from typing import cast

from torch.fx import Node

from deepfusion_toolkit.surgery.graph import Traced, aten
from deepfusion_toolkit.surgery.rows import shape_of
from deepfusion_toolkit.surgery.sites import Found

_POOLINGS = {
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.max_pool2d.default,
}


def place_of(traced: Traced, found: Found, seen: Collection[Node] = ()) -> Node:
    """The node whose value, or shortcut, takes a site's factors.

    A factor of a channel may wait until the channel has been pooled, because it is at least 0:
    ``pool(f * x) = f * pool(x)`` for averages and for maxima. So an activation that only a pooling
    reads is eroded behind it, where the map is smaller.

    Args:
        traced: the network, with no multiplication inserted yet.
        found: the site.
        seen: nodes whose own value is wanted, eroded.
    """
    node = found.node
    while found.kind == "activation" and node not in seen and len(node.users) == 1:
        (user,) = node.users
        known = user in traced.channel and user in traced.rows
        if not known or not _pools(user, traced.channel[node]):
            break
        if values(traced, user) >= values(traced, node):
            break
        node = user
    return node


def values(traced: Traced, node: Node) -> int:
    """How many values of a node belong to one image."""
    return prod(int(n) for n in (shape_of(node) or ())[1:]) * traced.rows[node]


def _pools(node: Node, channel: int) -> bool:
    """Whether it pools each channel by itself; ``channel`` is their dimension."""
    dims = len(shape_of(node.all_input_nodes[0]) or ())
    if node.target in _POOLINGS:
        return channel == dims - 3
    if node.target != aten.mean.dim:
        return False
    over = cast("Sequence[int]", node.args[1] or range(dims))
    return not {0, channel} & {d % dims for d in over}
