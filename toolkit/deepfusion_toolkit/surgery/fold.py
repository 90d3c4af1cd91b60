"""Frozen networks made cheaper: norms and paddings go into convolutions, weights channels-last."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from deepfusion_toolkit.surgery.graph import CONVOLUTIONS, aten


def fold(module: GraphModule) -> int:
    """Fold each inference batch norm that alone follows a convolution, and each even zero padding.

    With ``s = sqrt(var + eps)``, ``gamma * (conv(x; W, b) - mean) / s + beta`` is the convolution
    with ``W * gamma / s`` and ``(b - mean) * gamma / s + beta``: one pass over the map less both
    ways. Erosion of a norm's weight needs only its output and its bias, so it stays exact.

    Args:
        module: frozen; its convolutions' weights become channels-last, which is the order in which
            a CPU convolves fastest. The base model's own tensors are left alone.

    Returns:
        How many batch norms went.
    """
    graph, folded = module.graph, 0
    for node in list(graph.nodes):
        if node.target in (aten.pad.default, aten.constant_pad_nd.default):
            _into_padding(module, node)
        if node.target != aten.batch_norm.default or node.args[5]:
            continue
        source = node.args[0]
        if not _foldable(source, node):
            continue
        _fold_into(module, source, node)
        folded += 1
    for index, node in enumerate(list(graph.nodes)):
        if node.target in CONVOLUTIONS and _is_constant(node.args[1]):
            weight = _value(module, node.args[1])
            if weight.ndim == 4:  # noqa: PLR2004 - [out, in, height, width]
                weight = weight.detach().contiguous(memory_format=torch.channels_last)
                node.update_arg(1, _constant(module, node, f"_fast_weight_{index}", weight))
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return folded


def _foldable(source: object, norm: Node) -> bool:
    if not isinstance(source, Node) or source.target not in CONVOLUTIONS or len(source.users) != 1:
        return False
    if source.target == aten.convolution.default and source.args[6]:  # transposed
        return False
    constants = [source.args[1], *norm.args[1:5]]
    if len(source.args) > 2 and source.args[2] is not None:  # noqa: PLR2004 - input, weight, bias
        constants.append(source.args[2])
    return all(c is None or _is_constant(c) for c in constants) and None not in norm.args[3:5]


def _into_padding(module: GraphModule, pad: Node) -> None:
    """Let the one convolution behind an even padding with zeros pad by itself."""
    amounts, *rest = pad.args[1:]
    users = list(pad.users)
    if len(users) != 1 or users[0].target != aten.conv2d.default or users[0].args[0] is not pad:
        return
    if any(extra not in ("constant", None, 0) for extra in rest) or pad.kwargs:
        return
    sides = [int(side) for side in amounts] if isinstance(amounts, (list, tuple)) else []  # type: ignore[arg-type]
    if len(sides) != 4 or sides[0] != sides[1] or sides[2] != sides[3] or min(sides) < 0:  # noqa: PLR2004
        return
    convolution = users[0]
    defaults: tuple[Argument, ...] = (None, None, None, [1, 1], [0, 0], [1, 1], 1)
    args = [*convolution.args, *defaults[len(convolution.args) :]]
    before = [args[4], args[4]] if isinstance(args[4], int) else args[4]
    high, wide = (int(amount) for amount in before)  # type: ignore[union-attr, arg-type]
    args[0], args[4] = pad.args[0], [high + sides[2], wide + sides[0]]
    convolution.args = tuple(args)
    module.graph.erase_node(pad)


def _is_constant(argument: object) -> bool:
    return isinstance(argument, Node) and argument.op == "get_attr"


def _value(module: GraphModule, node: object) -> Tensor:
    found: object = module
    for part in str(node.target).split("."):  # type: ignore[attr-defined]
        found = getattr(found, part)
    assert isinstance(found, Tensor)  # noqa: S101 - a get_attr of a traced network is a tensor
    return found


def _constant(module: GraphModule, before: Node, name: str, value: Tensor) -> Node:
    module.register_buffer(name, value)
    with module.graph.inserting_before(before):
        return module.graph.get_attr(name)


def _fold_into(module: GraphModule, convolution: Node, norm: Node) -> None:
    weight = _value(module, convolution.args[1])
    ones = torch.ones(len(weight), dtype=torch.float64)
    old = convolution.args[2] if len(convolution.args) > 2 else None  # noqa: PLR2004
    gamma, beta, mean, var, bias = (
        default if argument is None else _value(module, argument).double()
        for argument, default in zip(
            (*norm.args[1:5], old), (ones, 0 * ones, 0 * ones, ones, 0 * ones), strict=True
        )
    )
    scale = gamma * torch.rsqrt(var + float(norm.args[7]))  # type: ignore[arg-type]
    shift = (bias - mean) * scale + beta
    column = scale.reshape(-1, *[1] * (weight.ndim - 1))
    name = convolution.name
    folded = (weight.double() * column).to(weight).detach()
    wide = _constant(module, convolution, f"_folded_weight_{name}", folded)
    flat = _constant(module, convolution, f"_folded_bias_{name}", shift.to(weight).detach())
    convolution.args = (convolution.args[0], wide, flat, *convolution.args[3:])
    norm.replace_all_uses_with(convolution)
    module.graph.erase_node(norm)
