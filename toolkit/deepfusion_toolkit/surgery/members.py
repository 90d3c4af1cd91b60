"""Everything behind the first site for K members: sizes, concatenations, views."""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, Node

from deepfusion_toolkit.surgery.graph import Traced, aten
from deepfusion_toolkit.surgery.rows import multiple, shape_of

BROADCASTS = {
    aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul_.Tensor,
    aten.div.Tensor, aten.maximum.default, aten.minimum.default, aten.where.self,
    aten.pow.Tensor_Tensor,
}  # fmt: skip
ONE_IMAGE = "one_image"
"""Meta of an inserted value [N, ...]: the shape of what belongs to one image."""

Sizes = Sequence[int | torch.SymInt]


class _Members(NamedTuple):
    """Numbers as nodes: all rows of factors, and the rows of one image where there are several."""

    rows: Node
    each: Node | None


def follow_members(traced: Traced, factors: Node, *, several: bool) -> None:
    """Make a graph with its multiplications inserted work for K rows of factors, in place.

    Args:
        traced: the graph.
        factors: its input, [K, F] or, with ``several``, [N * K, F].
        several: whether there are N images; otherwise one, whose values broadcast where they can.
    """
    graph = traced.module.graph
    with graph.inserting_before(next(iter(factors.users))):
        rows = graph.call_function(aten.sym_size.int, (factors, 0))
        each = None
        if several:
            images = graph.call_function(aten.sym_size.int, (traced.image, 0))
            each = graph.call_function(operator.floordiv, (rows, images))
    count = _Members(rows, each)
    batch = shape_of(traced.image)
    symbol = batch[0] if batch else None
    member: set[Node] = {factors}
    sizes: dict[Node, Node] = {}
    for node in list(graph.nodes):
        sources = node.all_input_nodes
        if node.target == aten.sym_size.int or member.isdisjoint(sources):
            continue
        # where images are several, nothing broadcasts; a result of the graph has to be of members
        broadcasts = not several and (node.target in BROADCASTS or node.op == "output")
        member.add(node)
        for source in sources:
            if isinstance(source.meta.get("val"), torch.SymInt):
                node.replace_input_with(source, _size_of_members(source, node, rows, sizes))
            elif source not in member and (image := _of_one_image(source, symbol)) is not None:
                parts, rest = image
                if parts > 1 or not broadcasts:
                    with graph.inserting_before(node):
                        wide = _widened(graph, source, count, parts, rest)
                    node.replace_input_with(source, wide)
        if node.target == aten.view.default:
            node.target = aten.reshape.default


def _size_of_members(size: Node, user: Node, rows: Node, known: dict[Node, Node]) -> Node:
    """The same size expression with the rows of factors in the place of the image batch."""
    if size.target == aten.sym_size.int:
        return rows
    if size not in known:
        args = tuple(
            _size_of_members(a, user, rows, known) if isinstance(a, Node) else a for a in size.args
        )
        with user.graph.inserting_before(user):
            known[size] = user.graph.call_function(size.target, args)  # type: ignore[arg-type]
    return known[size]


def _of_one_image(source: Node, symbol: object) -> tuple[int, Sizes] | None:
    """How many rows an image has in a value, and the shape of a row; None if it has no images."""
    if ONE_IMAGE in source.meta:
        return 1, source.meta[ONE_IMAGE]
    value = source.meta.get("val")
    if not isinstance(value, Tensor) or not value.ndim:
        return None
    # not a plain number: a head of two classes equals the traced batch of two
    parts = multiple(value.shape[0], symbol)
    return (parts, value.shape[1:]) if parts else None


def _widened(graph: Graph, source: Node, count: _Members, parts: int, rest: Sizes) -> Node:
    """Repeat what one image has, [parts, *rest], for its K members.

    Without ``count.each``, what belongs to K images already stays as it is.
    """
    own = [parts, *rest] if parts > 1 else [*rest]
    if count.each is not None:
        apart = graph.call_function(aten.reshape.default, (source, [-1, 1, *own]))
        shape = [-1, count.each, *own]
        wide = graph.call_function(aten.expand.default, (apart, shape))
        return graph.call_function(aten.reshape.default, (wide, [-1, *rest]))
    if parts > 1:
        source = graph.call_function(aten.reshape.default, (source, [-1, *own]))
    wide = graph.call_function(aten.expand.default, (source, [count.rows, *[-1] * len(own)]))
    if parts > 1:
        wide = graph.call_function(aten.reshape.default, (wide, [-1, *rest]))
    return wide
