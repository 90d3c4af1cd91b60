"""Shapes, and which rows belong to an image: networks fold windows and patches into the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

aten = torch.ops.aten

_RESHAPES = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default,  # noqa: SLF001
    aten.flatten.using_ints, aten.unflatten.int,
}  # fmt: skip


def shape_of(node: Node) -> tuple[int | torch.SymInt, ...] | None:
    """The traced shape of a node's value, or None if it is no tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def rows_of_images(inside: Sequence[Node], image: Node) -> dict[Node, int]:
    """How many rows of its first dimension belong to each image, where that is known.

    A value [N * rows, ...] is in the result only if the rows of one image lie side by side: then
    [N, rows, ...] is a view of it, and a factor of an image reaches all its rows.
    """
    batch = shape_of(image)
    symbol = batch[0] if batch else None
    known: dict[Node, int] = {}
    for node in inside:
        shape = shape_of(node)
        rows = multiple(shape[0], symbol) if shape else None
        if rows is not None and (rows == 1 or _side_by_side(node, rows, known)):
            known[node] = rows
    return known


def multiple(size: int | torch.SymInt, symbol: object) -> int | None:
    """The whole number that ``size`` is of the batch symbol; None if it is none."""
    if not (isinstance(size, torch.SymInt) and isinstance(symbol, torch.SymInt)):
        return None
    ratio = size.node.expr / symbol.node.expr
    return int(ratio) if ratio.is_Integer else None


def _side_by_side(node: Node, rows: int, known: dict[Node, int]) -> bool:
    if node.target in _RESHAPES:
        return node.args[0] in known
    moved = _moved(node)
    if moved is not None:
        return moved and known.get(node.args[0]) == rows  # type: ignore[arg-type]
    return any(known.get(source) == rows for source in node.all_input_nodes)


def _moved(node: Node) -> bool | None:
    """For an operator that moves dimensions: does the first one stay first? None for others."""
    dims = len(shape_of(node) or ())
    if node.target == aten.permute.default:
        return int(node.args[1][0]) % dims == 0  # type: ignore[index, arg-type]
    if node.target == aten.transpose.int:
        return 0 not in [int(d) % dims for d in node.args[1:3]]  # type: ignore[arg-type]
    return None
