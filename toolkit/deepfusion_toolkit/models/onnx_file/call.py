"""One node of an ONNX graph as a call: its inputs, its attributes, and the words to refuse it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deepfusion_edge.errors import ModelError

Numbers = npt.NDArray[Any]
"""Sizes, axes and other whole numbers: known while a graph is traced, but for the batch, which is
symbolic. Of dtype object where it may hold a symbol."""
Value = Tensor | Numbers
Result = Value | Sequence[Value]


@dataclass(frozen=True)
class Call:
    """A node with its inputs.

    Attributes:
        kind: ONNX's name of the operator.
        label: of the node, for messages.
        opset: of the graph.
        attributes: as ``onnx.helper`` gives them; tensors as numpy arrays.
        outputs: how many are wanted.
        inputs: None where an optional one is left out.
        batch: how many images there are now, perhaps a symbol.
        fixed: the batch that the file was written for, None if it is free.
    """

    kind: str
    label: str
    opset: int
    attributes: Mapping[str, Any]
    outputs: int
    inputs: tuple[Value | None, ...]
    batch: Any
    fixed: int | None

    def attribute(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - of any type
        """Read an attribute."""
        return self.attributes.get(name, default)

    def tensor(self, at: int = 0) -> Tensor:
        """Read an input that has to be a tensor; constants become one."""
        value = self.inputs[at]
        if value is None:
            raise self.refuse(f"has no input {at}")
        if isinstance(value, Tensor):
            return value
        return torch.from_numpy(np.array(value, order="C"))  # a scalar stays one

    def has(self, at: int) -> bool:
        """Whether an optional input is given."""
        return len(self.inputs) > at and self.inputs[at] is not None

    def optional(self, at: int) -> Tensor | None:
        """Read an input that may be left out."""
        return self.tensor(at) if self.has(at) else None

    def numbers(self, at: int, name: str = "") -> Numbers | None:
        """Read whole numbers, which are an input in newer opsets and were an attribute before.

        Raises:
            ModelError: they are computed from the image.
        """
        if self.has(at):
            value = self.inputs[at]
            if isinstance(value, Tensor):
                if value.is_floating_point() and value.numel() > 1:
                    raise self.refuse("takes sizes that are computed from the image")
                return value.detach().numpy()
            return value
        found = self.attributes.get(name)
        return None if found is None else np.array(found, dtype=object)

    def integers(self, at: int, name: str = "") -> list[Any] | None:
        """Read ``numbers`` as a flat list; symbols stay."""
        found = self.numbers(at, name)
        return None if found is None else [plain(v) for v in np.asarray(found, object).ravel()]

    def number(self, at: int, name: str = "") -> float | None:
        """Read one number: an input in newer opsets, an attribute before."""
        found = self.numbers(at, name)
        return None if found is None or not np.size(found) else float(np.asarray(found).ravel()[0])

    def refuse(self, why: str) -> ModelError:
        """Make the error that names this node."""
        return ModelError(
            f"node {self.label} ({self.kind}) {why}",
            "export the network again without it, or give it as a .pt2 file",
        )


def plain(value: Any) -> Any:  # noqa: ANN401 - a number or a symbol
    """Make a Python number of numpy's; leave a symbol alone."""
    return value.item() if isinstance(value, np.generic) else value


def symbolic(values: Numbers) -> bool:
    """Whether any of these numbers is not known yet."""
    return values.dtype == object and any(isinstance(v, torch.SymInt) for v in values.ravel())


Operator = Callable[[Call], Result]
