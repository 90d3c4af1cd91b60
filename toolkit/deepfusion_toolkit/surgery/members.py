"""Everything behind the first site for the members of one image, or of many."""

import copy
import operator
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import Argument

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


def follow_members(traced: Traced, factors: Node) -> None:
    """Make a graph with its multiplications inserted work for K rows of factors, in place.

    Args:
        traced: the graph, for one image, whose values broadcast where they can.
        factors: its input, [K, F].
    """
    graph = traced.module.graph
    with graph.inserting_before(next(iter(factors.users))):
        rows = graph.call_function(aten.sym_size.int, (factors, 0))
    symbol = _batch_of(traced.image)
    member: set[Node] = {factors}
    sizes: dict[Node, Node] = {}
    for node in list(graph.nodes):
        sources = node.all_input_nodes
        if node.target == aten.sym_size.int or member.isdisjoint(sources):
            continue
        broadcasts = node.target in BROADCASTS or node.op == "output"
        member.add(node)
        for source in sources:
            if isinstance(source.meta.get("val"), torch.SymInt):
                node.replace_input_with(source, _size_of_members(source, node, rows, sizes))
            elif source not in member and (image := _of_one_image(source, symbol)) is not None:
                parts, rest = image
                if parts > 1 or not broadcasts:
                    with graph.inserting_before(node):
                        wide = _widened(graph, source, rows, parts, rest)
                    node.replace_input_with(source, wide)
        if node.target == aten.view.default:
            node.target = aten.reshape.default


def spread(module: GraphModule) -> GraphModule:
    """A twin of an eroded graph for N images and N * K rows of factors, image after image.

    The graph itself broadcasts one image over its members. Here every value from before the first
    site is repeated where members begin to need it, so the prefix still runs once for each image.

    Args:
        module: made by ``erode``; the twin shares its parameters and buffers.
    """
    graph = copy.deepcopy(module.graph)
    image, factors = (node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(factors):
        rows = graph.call_function(aten.sym_size.int, (factors, 0))
    with graph.inserting_after(rows):
        images = graph.call_function(aten.sym_size.int, (image, 0))
    with graph.inserting_after(images):
        each = graph.call_function(operator.floordiv, (rows, images))
    symbol, numbers = _batch_of(image), {rows, images, each}
    member: set[Node] = {factors}
    repeated: dict[Node, Node] = {}
    for node in list(graph.nodes):
        sources = node.all_input_nodes
        # a result of the graph has to be of members
        if node in numbers or (member.isdisjoint(sources) and node.op != "output"):
            continue
        member.add(node)
        for source in sources:
            if source in member or (one := _of_one_image(source, symbol)) is None:
                continue
            if source not in repeated:
                with graph.inserting_before(node):
                    repeated[source] = _repeated(graph, source, each, *one)
            node.replace_input_with(source, repeated[source])
    graph.eliminate_dead_code()
    return GraphModule(module, graph)


def _batch_of(image: Node) -> object:
    """The symbol that stands for the number of images in traced shapes."""
    shape = shape_of(image)
    return shape[0] if shape else None


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


def _widened(graph: Graph, source: Node, rows: Node, parts: int, rest: Sizes) -> Node:
    """Repeat what one image has, [parts, *rest], for K members; K images stay as they are."""
    if parts > 1:
        source = by_images(graph, source, [parts, *rest])
    wide = graph.call_function(
        aten.expand.default, (source, [rows, *[-1] * (len(rest) + (parts > 1))])
    )
    if parts > 1:
        wide = graph.call_function(aten.reshape.default, (wide, [-1, *rest]))
    return wide


def by_images(graph: Graph, source: Argument, one: Sizes) -> Node:
    """A view [-1, *one]; what it has of one image is noted for ``spread``."""
    view = graph.call_function(aten.reshape.default, (source, [-1, *one]))
    view.meta[ONE_IMAGE] = one
    return view


def _repeated(graph: Graph, source: Node, each: Node, parts: int, rest: Sizes) -> Node:
    """From [N * parts, *rest] to [N * each * parts, *rest]: an image's copies side by side."""
    own = [parts, *rest] if parts > 1 else [*rest]
    apart = graph.call_function(aten.reshape.default, (source, [-1, 1, *own]))
    wide = graph.call_function(aten.expand.default, (apart, [-1, each, *own]))
    return graph.call_function(aten.reshape.default, (wide, [-1, *rest]))
