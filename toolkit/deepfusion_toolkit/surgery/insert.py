"""The surgery itself: factors [K, F] become an input, sites become multiplications."""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import Argument

from deepfusion_edge.erosion import Site, width
from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.surgery.graph import Erodible, Traced, aten, trace
from deepfusion_toolkit.surgery.rows import multiple, shape_of
from deepfusion_toolkit.surgery.sites import NORMS, Found, locate, penultimate

BROADCASTS = {
    aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul_.Tensor,
    aten.div.Tensor, aten.maximum.default, aten.minimum.default, aten.where.self,
    aten.pow.Tensor_Tensor,
}  # fmt: skip


class Seen(NamedTuple):
    """What an eroded model computes: logits [N, C], penultimate features [N, D], tapped maps."""

    logits: Tensor
    features: Tensor
    taps: tuple[Tensor, ...]


class ErodedModel(nn.Module):
    """A network with its erosion as an input.

    ``forward(image, factors)`` takes N images and N rows of factors, or one image and K rows: then
    everything before the first site is computed once (shared prefix, by broadcasting).

    Attributes:
        name: the base model's.
        size: the base model's input size (height, width).
        sites: what the F columns of ``factors`` mean, in order.
        tapped: names of the layers whose maps are returned too.
        fit: resizes images to the model's own size, as the base does.
        graph_module: forward(image [1 or N, 3, H, W], factors [N, F]) -> (logits, features, *taps).
    """

    def __init__(
        self,
        base: Erodible,
        sites: tuple[Site, ...],
        graph_module: GraphModule,
        tapped: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.name, self.size, self.sites = base.name, base.size, sites
        self.width, self.tapped = width(sites), tuple(tapped)
        self.graph_module = graph_module
        self.fit = base.fit

    def forward(self, image: Tensor, factors: Tensor) -> Seen:
        """RGB [1 or N, 3, H, W] in [0, 1] and factors [N, F] -> what N members see."""
        if factors.shape[1] != self.width or image.shape[0] not in (1, factors.shape[0]):
            raise ValueError(
                f"{tuple(image.shape)} images with factors {tuple(factors.shape)}: "
                f"wanted [N, {self.width}] and 1 or N images"
            )
        logits, features, *taps = self.graph_module(self.fit(image), factors)
        return Seen(logits, features, tuple(taps))


def erode(base: Erodible, sites: Sequence[Site], taps: Sequence[str] = ()) -> ErodedModel:
    """Insert a multiplication at each site and make the factors an input.

    Args:
        base: a classifier; its weights are shared, not copied.
        sites: see ``find_sites``; a plan's sites are found again by name.
        taps: names of graph nodes whose value is also returned (see ``features``).

    Raises:
        ModelError: no sites, or sites of another model.
    """
    if not sites:
        raise ModelError("an erosion plan without sites", "name at least one site")
    traced = trace(base.core, base.size)
    located = locate(traced, sites)
    graph = traced.module.graph
    tapped = [_named(traced, name) for name in taps]
    features = penultimate(traced)
    with graph.inserting_after(traced.image):
        factors = graph.placeholder("factors")
    columns = _columns(graph, factors, [site.channels for site in sites])
    eroded = {
        found.node: _multiply(traced, found, column)
        for found, column in zip(located, columns, strict=True)
    }
    logits = eroded.get(traced.logits, traced.logits)
    _follow_batch(traced, factors)
    with graph.inserting_before(next(n for n in graph.nodes if n.op == "output")):
        pooled = _pooled(graph, eroded.get(features, features), shape_of(features))
        results = (logits, pooled, *(eroded.get(t, t) for t in tapped))
    graph.output_node().args = (results,)
    graph.eliminate_dead_code()
    # the exported calling convention knows one input; a plain one takes both
    graph.set_codegen(torch.fx.graph.CodeGen())
    module = GraphModule(traced.module, graph)
    return ErodedModel(base, tuple(sites), module, taps)


def _named(traced: Traced, name: str) -> Node:
    for node in traced.inside:
        if node.name == name:
            return node
    raise ModelError(f"the model has no layer '{name}'", "list them with --help or leave it out")


def _columns(graph: Graph, factors: Node, channels: list[int]) -> list[Node]:
    """Split factors [K, F] into one [K, channels] a site."""
    with graph.inserting_after(factors):
        split = graph.call_function(aten.split_with_sizes.default, (factors, channels, 1))
    columns = []
    last = split
    for index in range(len(channels)):
        with graph.inserting_after(last):
            last = graph.call_function(operator.getitem, (split, index))
        columns.append(last)
    return columns


def _multiply(traced: Traced, found: Found, column: Node) -> Node:
    """Insert one site's multiplication; return the node that now stands for its result."""
    graph, node = traced.module.graph, found.node
    shape = shape_of(node)
    if shape is None:
        raise ModelError(f"layer '{node.name}' has no tensor result", "leave it out of the plan")
    dim, rows = traced.channel[node], traced.rows[node]
    if found.kind == "skip":
        shortcut = node.args[found.shortcut]  # as it is now: perhaps an eroded activation
        with graph.inserting_before(node):
            scaled = _scaled(graph, shortcut, column, shape, dim, rows)
        node.update_arg(found.shortcut, scaled)
        return node
    users = list(node.users)
    with graph.inserting_before(node.next):
        if found.kind == "norm" and (bias := _bias(node)) is not None:
            # the mask is on the weight alone: b + f * (y - b)
            shift = _unsqueezed(graph, bias, inner=0, trailing=len(shape) - 1 - dim)
            centred = graph.call_function(aten.sub.Tensor, (node, shift))
            scaled = _scaled(graph, centred, column, shape, dim, rows)
            result = graph.call_function(aten.add.Tensor, (scaled, shift))
        else:
            result = _scaled(graph, node, column, shape, dim, rows)
    for user in users:
        user.replace_input_with(node, result)
    return result


def _scaled(
    graph: Graph,
    value: Argument,
    column: Node,
    shape: Sequence[int | torch.SymInt],
    dim: int,
    rows: int,
) -> Node:
    """Multiply a value of this shape by [K, channels], all rows of an image alike."""
    rest = list(shape[1:])
    if rows > 1:
        value = graph.call_function(aten.reshape.default, (value, [-1, rows, *rest]))
    inner = dim - 1 + (rows > 1)
    factor = _unsqueezed(graph, column, inner=inner, trailing=len(shape) - 1 - dim)
    scaled = graph.call_function(aten.mul.Tensor, (value, factor))
    if rows > 1:
        scaled = graph.call_function(aten.reshape.default, (scaled, [-1, *rest]))
    return scaled


def _bias(node: Node) -> Node | None:
    position = NORMS[node.target][1]
    bias = node.args[position] if len(node.args) > position else None
    return bias if isinstance(bias, Node) else None


def _unsqueezed(graph: Graph, vector: Node, *, inner: int, trailing: int) -> Node:
    """Add ``inner`` dimensions behind the first and ``trailing`` ones at the end.

    Unsqueeze rather than reshape: TensorRT fuses it, and K stays free.
    """
    for at in [1] * inner + [-1] * trailing:
        vector = graph.call_function(aten.unsqueeze.default, (vector, at))
    return vector


def _pooled(graph: Graph, features: Node, shape: tuple[int | torch.SymInt, ...] | None) -> Node:
    """Features as [N, D]: maps and tokens are averaged."""
    if shape is None or len(shape) == 2:  # noqa: PLR2004 - [N, D]
        return features
    dims = [2, 3] if len(shape) == 4 else list(range(1, len(shape) - 1))  # noqa: PLR2004
    return graph.call_function(aten.mean.dim, (features, dims))


def _follow_batch(traced: Traced, factors: Node) -> None:
    """Make everything behind the first site work for K rows: sizes, concatenations, views."""
    graph = traced.module.graph
    first = next(u for u in factors.users)
    with graph.inserting_before(first):
        rows = graph.call_function(aten.sym_size.int, (factors, 0))
    batch = shape_of(traced.image)
    symbol = batch[0] if batch else None
    member: set[Node] = {factors}
    sizes: dict[Node, Node] = {}

    def size_for_members(size: Node, user: Node) -> Node:
        """The same size expression with K in the place of the image batch."""
        if size not in sizes:
            if size.target == aten.sym_size.int:
                sizes[size] = rows
            else:
                args = tuple(
                    size_for_members(a, user) if isinstance(a, Node) else a for a in size.args
                )
                with graph.inserting_before(user):
                    sizes[size] = graph.call_function(size.target, args)  # type: ignore[arg-type]
        return sizes[size]

    for node in list(graph.nodes):
        if (
            node is rows
            or node.op == "output"
            or not any(a in member for a in node.all_input_nodes)
        ):
            continue
        if node.target == aten.sym_size.int:
            continue
        member.add(node)
        for source in node.all_input_nodes:
            value = source.meta.get("val")
            if isinstance(value, torch.SymInt):
                node.replace_input_with(source, size_for_members(source, node))
            elif (
                source not in member
                and isinstance(value, Tensor)
                and value.ndim > 0
                # not a plain number: a head of two classes equals the traced batch of two
                and (parts := multiple(value.shape[0], symbol))
                and (parts > 1 or node.target not in BROADCASTS)
            ):
                with graph.inserting_before(node):
                    wide = _widened(graph, source, rows, parts, value.shape[1:])
                node.replace_input_with(source, wide)
        if node.target == aten.view.default:
            node.target = aten.reshape.default


def _widened(
    graph: Graph, source: Node, rows: Node, parts: int, rest: Sequence[int | torch.SymInt]
) -> Node:
    """Repeat what one image has, [parts, *rest], for K members; K images stay as they are."""
    if parts > 1:
        source = graph.call_function(aten.reshape.default, (source, [-1, parts, *rest]))
    inner = [-1] * (len(rest) + (parts > 1))
    wide = graph.call_function(aten.expand.default, (source, [rows, *inner]))
    if parts > 1:
        wide = graph.call_function(aten.reshape.default, (wide, [-1, *rest]))
    return wide
