"""Tracing a network to plain ATen operators, and what can be read off such a graph."""

import contextlib
import copy
import inspect
import io
import logging
import operator
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.surgery.rows import rows_of_images, shape_of

aten = torch.ops.aten

CONVOLUTIONS = {
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.convolution.default,
}
PRODUCTS = {aten.linear.default, aten.addmm.default, aten.mm.default, aten.matmul.default}
WEIGHTED = CONVOLUTIONS | PRODUCTS
CHANNELS_FIRST = CONVOLUTIONS | {
    aten.batch_norm.default,
    aten.group_norm.default,
    aten.instance_norm.default,
}
CHANNELS_LAST = PRODUCTS | {aten.layer_norm.default}


class Erodible(Protocol):
    """What surgery needs to know of a model.

    Attributes:
        name: for messages.
        size: input size (height, width) of the core.
        core: the traceable network, RGB [N, 3, *size] in [0, 1] -> logits [N, C].
    """

    name: str
    size: tuple[int, int]
    core: nn.Module

    def fit(self, image: Tensor) -> Tensor:
        """Resize [N, 3, H, W] to the model's own size."""
        ...


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch.export's notes about its own internals away from people who only use it."""
    logger = logging.getLogger("torch")
    before = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*", category=UserWarning, module="torch")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)


def export_program(
    module: nn.Module, inputs: tuple[Tensor, ...], batch_of: tuple[int, ...]
) -> torch.export.ExportedProgram:
    """Export with a dynamic first dimension for the inputs named by ``batch_of``.

    Raises:
        ModelError: with torch's own first line, when the network cannot be traced.
    """
    dynamic = tuple(
        {0: torch.export.Dim.DYNAMIC} if index in batch_of else None for index in range(len(inputs))
    )
    try:
        with quiet():
            return torch.export.export(module, inputs, dynamic_shapes=dynamic)
    except ModelError:  # of a network that was taken in from an ONNX file: it names the node
        raise
    except Exception as error:  # torch.export raises dozens of kinds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the network cannot be traced by torch.export{_place(error)} ({first[:300]})",
            "remove data-dependent control flow, keep the batch dimension free",
        ) from error


def _place(error: Exception) -> str:
    """Which line of the network's own code it was, where that can be said."""
    torchs = str(Path(torch.__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((torchs, "<")) and frame.filename != __file__:
            return f" at {Path(frame.filename).name}:{frame.lineno}"
    return ""


@dataclass(frozen=True)
class Traced:
    """A network as plain ATen operators, batch dynamic.

    Attributes:
        module: forward(image [N, 3, H, W]) -> logits [N, C]; nodes carry ``meta["val"]`` shapes.
        image: the input node.
        logits: the output node.
        inside: nodes that depend on the image, in order.
        ancestors: for each of these, a bit set over positions in ``inside`` (itself included).
        channel: for each of these, the dimension that counts channels, where known.
        rows: for each of these, how many rows side by side belong to each image, where known.
        weighted: bit set of the convolutions and matrix products among them.
    """

    module: GraphModule
    image: Node
    logits: Node
    inside: list[Node]
    ancestors: dict[Node, int]
    channel: dict[Node, int]
    rows: dict[Node, int]
    weighted: int

    def weighted_in(self, nodes: int) -> int:
        """How many convolutions and matrix products a bit set of nodes holds."""
        return (nodes & self.weighted).bit_count()


class _Key(NamedTuple):
    """What an export was made for."""

    size: tuple[int, int]
    tensors: tuple[Tensor, ...]

    def holds(self, size: tuple[int, int], tensors: tuple[Tensor, ...]) -> bool:
        """Whether it would be the same one; tensors are shared, so their identity counts."""
        same = len(tensors) == len(self.tensors) and all(map(operator.is_, tensors, self.tensors))
        return same and size == self.size


def trace(core: nn.Module, size: tuple[int, int]) -> Traced:
    """Export and decompose a network for images of one size.

    Raises:
        ModelError: torch.export refuses it.
    """
    exported = _decomposed(core, size)
    with quiet():
        graph = copy.deepcopy(exported.graph)
    module = GraphModule(exported, graph)  # an exported module forbids train() and eval()
    _one_batch_norm(module)
    for node in list(module.graph.nodes):
        if node.op == "call_module" and not node.users:  # guards of older releases
            module.graph.erase_node(node)
    image = next(n for n in module.graph.nodes if n.op == "placeholder")
    output = next(n for n in module.graph.nodes if n.op == "output")
    logits = output.args[0][0] if isinstance(output.args[0], (tuple, list)) else output.args[0]
    inside: list[Node] = []
    ancestors: dict[Node, int] = {}
    channel: dict[Node, int] = {image: 1}
    for node in module.graph.nodes:
        above = [a for a in node.all_input_nodes if a in ancestors]
        if node is not image and (not above or node.op == "output"):
            continue
        bits = 1 << len(inside)
        for a in above:
            bits |= ancestors[a]
        inside.append(node)
        ancestors[node] = bits
        dim = _channel_dim(node, channel)
        if dim is not None:
            channel[node] = dim
    weighted = sum(1 << at for at, node in enumerate(inside) if node.target in WEIGHTED)
    rows = rows_of_images(inside, image)
    return Traced(module, image, logits, inside, ancestors, channel, rows, weighted)


_KEPT: WeakKeyDictionary[nn.Module, tuple[_Key, GraphModule]] = WeakKeyDictionary()
"""The last export of each network: a command traces the same one many times, seconds each."""


def _decomposed(core: nn.Module, size: tuple[int, int]) -> GraphModule:
    """The exported network; kept as long as the network lives and has the very same tensors."""
    tensors = (*core.parameters(), *core.buffers())
    kept = _KEPT.get(core)
    if kept and kept[0].holds(size, tensors):
        return kept[1]
    program = export_program(core, (torch.full((2, 3, *size), 0.5),), batch_of=(0,))
    with quiet():
        program = program.run_decompositions({})
        options = inspect.signature(program.module).parameters
        unguarded = {"check_guards": False} if "check_guards" in options else {}
        exported: GraphModule = program.module(**unguarded)
    _KEPT[core] = _Key(size, tensors), exported
    return exported


def _one_batch_norm(module: GraphModule) -> None:
    """Spell inference batch norm as the operator with one result, whatever the release of torch."""
    for node in list(module.graph.nodes):
        if node.target != aten._native_batch_norm_legit_no_training.default:  # noqa: SLF001
            continue
        *tensors, momentum, eps = node.args
        first = next(u for u in node.users if u.target is operator.getitem and u.args[1] == 0)
        with module.graph.inserting_before(first):
            plain = module.graph.call_function(
                aten.batch_norm.default, (*tensors, False, momentum, eps, False)
            )
        plain.meta["val"] = first.meta["val"]
        first.replace_all_uses_with(plain)
        for user in list(node.users):
            module.graph.erase_node(user)
        module.graph.erase_node(node)


def following_batches(
    module: GraphModule, leaving: Callable[[str], bool] = lambda _name: False
) -> GraphModule:
    """A twin for training: batch norms use the statistics of each batch, and follow them.

    It shares all parameters and buffers with ``module``, which keeps its frozen statistics.

    Args:
        module: a traced network.
        leaving: of which weights, by name, the norms stay as they are.
    """
    graph = copy.deepcopy(module.graph)
    for node in graph.nodes:
        if node.target == aten.batch_norm.default and not leaving(str(node.args[3].target)):
            node.update_arg(5, True)
    return GraphModule(module, graph)


def _channel_dim(node: Node, known: dict[Node, int]) -> int | None:
    """Follow the channel dimension through one operator; None where it is lost."""
    shape = shape_of(node)
    if shape is None or len(shape) < 2:  # noqa: PLR2004 - batch and channels
        return None
    if node.target in CHANNELS_FIRST:
        return 1
    if node.target in CHANNELS_LAST:
        return len(shape) - 1
    source = next((a for a in node.all_input_nodes if a in known), None)
    if source is None:
        return None
    dim, before = known[source], shape_of(source)
    if before is None:
        return None
    if node.target == aten.permute.default:
        order = [d % len(before) for d in node.args[1]]  # type: ignore[union-attr, operator]
        return order.index(dim)
    if node.target == aten.transpose.int:
        a, b = (int(d) % len(before) for d in node.args[1:3])  # type: ignore[arg-type]
        return {a: b, b: a}.get(dim, dim)
    if len(shape) == len(before) and shape[dim] == before[dim]:
        return dim
    if len(shape) < len(before) and dim == 1 and shape[1] == before[1]:
        return 1  # pooled or flattened behind the channels
    if dim == len(before) - 1 and shape[-1] == before[-1]:
        return len(shape) - 1
    return 1 if len(shape) == 2 else None  # noqa: PLR2004 - [N, features]
