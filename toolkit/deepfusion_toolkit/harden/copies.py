"""A model in training on several devices: each has a copy and is shown a part of every batch.

The parts are one batch: draws, losses and gradients are those of a single device, up to the order
in which floats are added. Batch norms alone see only what their own device sees, and those of the
first are followed, as in ``torch.nn.parallel.DistributedDataParallel``.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden.detector import belongs
from deepfusion_toolkit.surgery.graph import following_batches, quiet
from deepfusion_toolkit.surgery.members import spread

W = TypeVar("W")
P = TypeVar("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)


class Copy:
    """An eroded model where one device trains it.

    Attributes:
        model: the defence.
        undefended: the same as it was before training.
        live: its graph for N images and N * K rows of factors; batch norms follow the batches.
        trained: parameters that are learned, a detector's excepted.
        weights: parameters, then buffers; what a checkpoint holds.
        names: of these.
    """

    def __init__(self, model: Defended, undefended: Defended) -> None:
        self.model, self.undefended = model, undefended
        (eroded,) = model.bases
        graph = eroded.graph_module
        self.live: GraphModule = spread(following_batches(graph, leaving=belongs))
        self.trained = [
            p for n, p in graph.named_parameters() if p.is_floating_point() and not belongs(n)
        ]
        self.weights = [*eroded.parameters(), *eroded.buffers()]
        self.names = [n for n, _ in (*graph.named_parameters(), *graph.named_buffers())]

    @property
    def device(self) -> torch.device:
        """Where the weights are now."""
        return self.weights[0].device

    def move(self, device: str) -> None:
        """Move in place: the base model and every eroded form of it share these tensors."""
        for weight in self.weights:
            weight.data = weight.data.to(device)
        self.model.preprocess.to(device)
        self.undefended.to(device)


def copies_of(model: Defended, devices: Sequence[str]) -> list[Copy]:
    """The model itself, which its caller moves to the first device, and copies on the others."""
    first, *others = devices
    copies = [Copy(model, twin(model).to(first))]
    copies += [Copy(*(twin(model).to(device) for _ in range(2))) for device in others]
    return copies


def twin(module: M) -> M:
    """A copy with weights of its own, without torch's notes about how it copies graphs."""
    with quiet():
        return deepcopy(module)


def follow(copies: Sequence[Copy]) -> None:
    """Give all copies the weights of the first."""
    first, *others = copies
    with torch.no_grad():
        for other in others:
            for own, weight in zip(other.weights, first.weights, strict=True):
                own.copy_(weight)


def gather(copies: Sequence[Copy]) -> None:
    """Add the gradients of all copies to those of the first."""
    first, *others = copies
    for other in others:
        for own, weight in zip(other.trained, first.trained, strict=True):
            if own.grad is not None:
                found = own.grad.to(weight.device)
                weight.grad = found if weight.grad is None else weight.grad + found
                own.grad = None


def parted(batch: Tensor, parts: int) -> list[Tensor]:
    """Every so-manieth row: parts of a batch that are mixed as the batch is; no empty ones."""
    return [batch[first::parts] for first in range(min(parts, len(batch)))]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The batch that ``parted`` made these of."""
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for first, part in enumerate(parts):
        whole[first :: len(parts)] = part
    return whole


def side_by_side(work: Callable[[W, P], R], workers: Sequence[W], parts: Sequence[P]) -> list[R]:
    """Each worker does its part, in a thread of its own if there are several parts.

    Args:
        work: must touch nothing that workers share.
        workers: at least as many as parts.
        parts: their results come in this order.
    """
    if len(parts) < 2:  # noqa: PLR2004 - alone
        return [*map(work, workers, parts)]
    with ThreadPoolExecutor(len(parts)) as pool:
        return [*pool.map(work, workers, parts)]
