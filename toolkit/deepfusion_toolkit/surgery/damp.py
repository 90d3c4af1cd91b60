"""Gradients that prefer shortcuts: residual branches keep their value and pass less gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from deepfusion_toolkit.surgery.graph import WEIGHTED
from deepfusion_toolkit.surgery.sites import SUMS


class _Damped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, share: float) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.share = share
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradients[0] * ctx.share, None


def _damped(value: Tensor, share: float) -> Tensor:
    result: Tensor = _Damped.apply(value, share)  # type: ignore[no-untyped-call]
    return result


def damp(module: GraphModule, share: float) -> int:
    """Let every residual branch pass ``share`` of its gradient (SGM, Wu et al., ICLR 2020).

    A branch is the operand of a sum with more weighted operators behind it than the other, up to
    where both began; the network's values stay as they are.

    Returns:
        How many branches were damped.
    """
    graph = module.graph
    above: dict[Node, frozenset[Node]] = {}
    damped = 0
    for node in list(graph.nodes):
        own = {node} if node.target in WEIGHTED else set()
        above[node] = frozenset(own.union(*(above[a] for a in node.all_input_nodes)))
        if node.target not in SUMS or len(node.args) < 2:  # noqa: PLR2004 - a sum of two
            continue
        left, right = node.args[:2]
        if not (isinstance(left, Node) and isinstance(right, Node)) or left is right:
            continue
        more = len(above[left] - above[right]) - len(above[right] - above[left])
        if not more or "get_attr" in (left.op, right.op):
            continue
        position = 0 if more > 0 else 1
        with graph.inserting_before(node):
            branch = graph.call_function(_damped, (node.args[position], share))
        node.update_arg(position, branch)
        above[branch] = above[(left, right)[position]]
        damped += 1
    module.recompile()
    return damped
