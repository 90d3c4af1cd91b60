"""Where a network can be eroded: skips, activations, norms, found generically in its graph."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch.fx import Node

from deepfusion_edge.erosion import Kind, Site
from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.surgery.graph import WEIGHTED, Traced, aten
from deepfusion_toolkit.surgery.rows import shape_of

ACTIVATIONS = {
    aten.relu.default, aten.relu_.default, aten.relu6.default, aten.hardtanh.default,
    aten.leaky_relu.default, aten.elu.default, aten.celu.default, aten.selu.default,
    aten.silu.default, aten.gelu.default, aten.hardswish.default, aten.mish.default,
    aten.prelu.default, aten.softplus.default, aten.tanh.default,
}  # fmt: skip
NORMS: dict[object, tuple[int, int]] = {  # operator -> positions of weight and bias
    aten.batch_norm.default: (1, 2),
    aten.layer_norm.default: (2, 3),
    aten.group_norm.default: (2, 3),
}
GATES = {aten.sigmoid.default, aten.hardsigmoid.default}
SUMS = {aten.add.Tensor, aten.add_.Tensor}

DEFAULT_STRENGTH: dict[Kind, float] = {"skip": 0.2, "activation": 0.02, "norm": 0.02}
"""Near the published ranges: skip .12 to .22, dropout .006 to .012, parameters .01 to .05."""


@dataclass(frozen=True)
class Found:
    """A site and the node it belongs to: the sum, the activation or the norm.

    ``shortcut`` is the position of the shortcut among the sum's operands.
    """

    kind: Kind
    node: Node
    channels: int
    shortcut: int = 0

    @property
    def name(self) -> str:
        """Unique and stable for a given network and release of torch: kind and node name."""
        return f"{self.kind}:{self.node.name}"


def find(traced: Traced) -> list[Found]:
    """List every place that can be eroded, in graph order."""
    found = []
    for node in traced.inside:
        dim = traced.channel.get(node)
        shape = shape_of(node)
        if dim is None or shape is None or dim == 0 or node not in traced.rows:
            continue
        channels = shape[dim]
        if not isinstance(channels, int):
            continue
        if node.target in ACTIVATIONS and not _gates(node):
            found.append(Found("activation", node, channels))
        elif node.target in NORMS and _affine(node):
            found.append(Found("norm", node, channels))
        elif node.target in SUMS:
            shortcut = _shortcut(traced, node)
            if shortcut is not None:
                found.append(Found("skip", node, channels, shortcut))
    return found


def find_sites(
    traced: Traced, kinds: Collection[Kind], strength: dict[Kind, float]
) -> tuple[Site, ...]:
    """Sites of the given kinds with one strength for each kind.

    Raises:
        ModelError: the network has none.
    """
    sites = tuple(
        Site(f.name, f.kind, f.channels, strength[f.kind]) for f in find(traced) if f.kind in kinds
    )
    if not sites:
        raise ModelError(
            f"the network has no site of kind {' or '.join(sorted(kinds))} to erode",
            "allow other kinds of erosion, or use another network",
        )
    return sites


def locate(traced: Traced, sites: Sequence[Site]) -> list[Found]:
    """Find the nodes of planned sites again.

    Raises:
        ModelError: a site does not exist or has other channels: the plan is for another model.
    """
    by_name = {f.name: f for f in find(traced)}
    located = []
    for site in sites:
        here = by_name.get(site.name)
        if here is None or here.channels != site.channels:
            seen = f"{here.channels} channels" if here else "no such site"
            raise ModelError(
                f"erosion site '{site.name}' with {site.channels} channels: the model has {seen}",
                "use the plan that was made for this model",
            )
        located.append(here)
    return located


def _affine(node: Node) -> bool:
    position = NORMS[node.target][0]
    weight = node.args[position] if len(node.args) > position else None
    return isinstance(weight, Node) and len(shape_of(weight) or ()) == 1


def _gates(node: Node) -> bool:
    """Does this activation only feed a gate, as in squeeze-and-excitation?"""
    shape = shape_of(node)
    if shape is None or len(shape) != 4 or tuple(shape[2:]) != (1, 1):  # noqa: PLR2004
        return False
    ahead, seen = list(node.users), 0
    while ahead and seen < 8:  # noqa: PLR2004 - a gate follows within a few operators
        user = ahead.pop()
        seen += 1
        if user.target in GATES:
            return True
        ahead.extend(user.users)
    return False


def _shortcut(traced: Traced, node: Node) -> int | None:
    """Which operand of a sum is the shortcut: the one with fewer weighted operators."""
    operands = node.args[:2]
    if len(operands) != 2 or not all(  # noqa: PLR2004 - a sum of two
        isinstance(a, Node) and a in traced.ancestors for a in operands
    ):
        return None
    left, right = operands
    if left is right or shape_of(left) != shape_of(right):  # type: ignore[arg-type]
        return None
    above_left, above_right = traced.ancestors[left], traced.ancestors[right]  # type: ignore[index]
    own_left = traced.weighted_in(above_left & ~above_right)
    own_right = traced.weighted_in(above_right & ~above_left)
    if own_left == own_right:
        return None
    return 0 if own_left < own_right else 1


def penultimate(traced: Traced) -> Node:
    """The input of the last weighted operator before the logits: what detection scores.

    Raises:
        ModelError: the network has no weighted operator.
    """
    above = traced.ancestors[traced.logits]
    for at in range(len(traced.inside) - 1, -1, -1):
        node = traced.inside[at]
        if above >> at & 1 and node.target in WEIGHTED:
            source = node.args[1] if node.target == aten.addmm.default else node.args[0]
            if isinstance(source, Node):
                return source
    raise ModelError("the network has no linear or convolution layer", "use a neural classifier")
