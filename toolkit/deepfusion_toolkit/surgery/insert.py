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
from deepfusion_toolkit.surgery.members import ONE_IMAGE, by_images, follow_members, spread
from deepfusion_toolkit.surgery.place import place_of
from deepfusion_toolkit.surgery.rows import shape_of
from deepfusion_toolkit.surgery.sites import NORMS, Found, locate, penultimate


class Seen(NamedTuple):
    """What an eroded model computes: logits [N, C], penultimate features [N, D], tapped maps."""

    logits: Tensor
    features: Tensor
    taps: tuple[Tensor, ...]


class ErodedModel(nn.Module):
    """A network with its erosion as an input.

    ``forward(image, factors)`` takes N images and N rows of factors, or K rows for each image, one
    image after the other: then everything before the first site is computed once an image. Factors
    are at least 0, as every kind of erosion draws them.

    Attributes:
        name: the base model's.
        size: the base model's input size (height, width).
        sites: what the F columns of ``factors`` mean, in order.
        tapped: names of the layers whose maps are returned too.
        several: whether the graph itself takes K rows for each of N images.
        fit: resizes images to the model's own size, as the base does.
        graph_module: forward(image [1 or N, 3, H, W], factors [N, F]) -> (logits, features, *taps).
        spread: the same for K rows an image, once it was needed.
    """

    def __init__(
        self,
        base: Erodible,
        sites: tuple[Site, ...],
        graph_module: GraphModule,
        tapped: Sequence[str] = (),
        *,
        several: bool = False,
    ) -> None:
        super().__init__()
        self.several = several
        self.name, self.size, self.sites = base.name, base.size, sites
        self.width, self.tapped = width(sites), tuple(tapped)
        self.graph_module = graph_module
        self.spread: GraphModule | None = None
        self.fit = base.fit

    def forward(self, image: Tensor, factors: Tensor) -> Seen:
        """RGB [N, 3, H, W] in [0, 1] and factors [N * K, F] -> what N * K members see."""
        count, rows = image.shape[0], factors.shape[0]
        graph = self.graph_module
        # of an export's symbols nothing may be asked: K of one image, N of several
        if not self.several and count != 1:
            if not count or rows % count:
                raise ValueError(f"{rows} rows of factors cannot be shared by {count} images")
            if count != rows:
                graph = self.spread = self.spread or spread(graph)
        if factors.shape[1] != self.width:
            raise ValueError(f"factors {tuple(factors.shape)}: wanted {self.width} columns")
        logits, features, *taps = graph(self.fit(image), factors)
        return Seen(logits, features, tuple(taps))


def erode(
    base: Erodible, sites: Sequence[Site], taps: Sequence[str] = (), *, several: bool = False
) -> ErodedModel:
    """Insert a multiplication for each site (see ``place_of``) and make the factors an input.

    Args:
        base: a classifier; its weights are shared, not copied.
        sites: see ``find_sites``; a plan's sites are found again by name.
        taps: names of graph nodes whose value is also returned (see ``features``).
        several: for N images with K rows of factors each, see ``ErodedModel``.

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
    places = [place_of(traced, found, tapped) for found in located]
    with graph.inserting_after(traced.image):
        factors = graph.placeholder("factors")
    columns = _columns(graph, factors, [site.channels for site in sites])
    eroded = {
        place: _multiply(traced, found, place, column)
        for found, place, column in zip(located, places, columns, strict=True)
    }
    logits = eroded.get(traced.logits, traced.logits)
    with graph.inserting_before(graph.output_node()):
        pooled = _pooled(graph, eroded.get(features, features), shape_of(features))
    graph.output_node().args = ((logits, pooled, *(eroded.get(t, t) for t in tapped)),)
    follow_members(traced, factors)
    graph.eliminate_dead_code()
    # the exported calling convention knows one input; a plain one takes both
    graph.set_codegen(torch.fx.graph.CodeGen())
    module = GraphModule(traced.module, graph)
    return ErodedModel(
        base, tuple(sites), spread(module) if several else module, taps, several=several
    )


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


def _multiply(traced: Traced, found: Found, node: Node, column: Node) -> Node:
    """Insert one site's multiplication at its place; return what now stands for the result."""
    graph, shape = traced.module.graph, shape_of(node)
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
            # the mask is on the weight alone: the norm leaves its bias for afterwards
            node.update_arg(NORMS[node.target][1], None)
            shift = _unsqueezed(graph, bias, inner=0, trailing=len(shape) - 1 - dim)
            scaled = _scaled(graph, node, column, shape, dim, rows)
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
        value = by_images(graph, value, [rows, *rest])
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
    pooled = graph.call_function(aten.mean.dim, (features, dims))
    pooled.meta[ONE_IMAGE] = (shape[1] if len(shape) == 4 else shape[-1],)  # noqa: PLR2004
    return pooled
