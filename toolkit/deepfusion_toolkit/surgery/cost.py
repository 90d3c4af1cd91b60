"""What an eroded graph costs: multiply-adds, the share that members have in common, and erosion."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch.fx import Node

from deepfusion_edge.erosion import Site
from deepfusion_toolkit.surgery.graph import CONVOLUTIONS, WEIGHTED, Traced
from deepfusion_toolkit.surgery.place import place_of, values
from deepfusion_toolkit.surgery.rows import shape_of
from deepfusion_toolkit.surgery.sites import locate

TOUCH = 15.0
"""Multiply-adds that one value's erosion costs: see benchmarks/README.md."""


def multiply_adds(node: Node) -> int:
    """Multiply-adds of one convolution or matrix product for one image; 0 for everything else."""
    if node.target not in WEIGHTED:
        return 0
    output = [n for n in shape_of(node) or () if isinstance(n, int)]
    weight = next((s for a in node.all_input_nodes[1:] if (s := shape_of(a)) and len(s) > 1), None)
    if weight is None:
        return 0
    sizes = [int(n) for n in weight if not isinstance(n, torch.SymInt)]
    per_output = prod(sizes[1:]) if node.target in CONVOLUTIONS else sizes[-1]
    return prod(output) * per_output


def share_before(traced: Traced, sites: Sequence[Site]) -> float:
    """The ``prefix_share`` that eroding these sites would give, without doing it."""
    eroded = 0
    for found in locate(traced, sites):
        eroded |= 1 << traced.inside.index(found.node)
    work = {node: multiply_adds(node) for node in traced.inside}
    total = sum(work.values())
    shared = sum(w for node, w in work.items() if not traced.ancestors[node] & eroded)
    return shared / total if total else 0.0


class Work(NamedTuple):
    """What members of one eroded network cost, in plain inferences: runs of what was hardened.

    Attributes:
        shared: share of multiply-adds before the first eroded site, in [0, 1].
        eroded: of one member's erosion, in runs of the network. A factor's multiplication reads
            and writes a value and computes next to nothing: it costs as much as ``TOUCH``
            multiply-adds.
        network: plain inferences that one run of the network costs: 1, or more where hardening
            put something beside it.
    """

    shared: float
    eroded: float = 0.0
    network: float = 1.0

    def cost(self, members: int) -> float:
        """Predict what so many members in one graph cost."""
        return self.network * (members_cost(members, self.shared) + members * self.eroded)


def work_of(traced: Traced, sites: Sequence[Site]) -> Work:
    """Predict what eroding these sites costs, without doing it."""
    total = sum(multiply_adds(node) for node in traced.inside)
    touched = 0
    for found in locate(traced, sites):
        once = values(traced, place_of(traced, found))
        touched += once * (2 if found.kind == "norm" else 1)  # a norm's bias is added afterwards
    return Work(share_before(traced, sites), TOUCH * touched / total if total else 0.0)


def members_cost(members: int, prefix_share: float) -> float:
    """Multiply-adds of so many members in one graph, in plain inferences (of each base once)."""
    return 1 + (members - 1) * (1 - prefix_share)


def prefix_share(*modules: torch.fx.GraphModule) -> float:
    """Share of multiply-adds before the first eroded site, in [0, 1], of graphs made by ``erode``.

    See ``members_cost`` for what it saves.
    """
    total = shared = 0
    for module in modules:
        member: set[Node] = set()
        for node in module.graph.nodes:
            if node.target == "factors" or any(a in member for a in node.all_input_nodes):
                member.add(node)
            work = multiply_adds(node)
            total += work
            shared += 0 if node in member else work
    return shared / total if total else 0.0
