"""An ONNX graph as a torch module: called node by node, so that torch.export sees plain operators.

What depends on constants alone is computed once, when the module is made. Sizes stay numbers and
symbols; only what follows from the image is torch's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.models.onnx_file import layers, numbers, values
from deepfusion_toolkit.models.onnx_file.call import Call, Operator, Value
from deepfusion_toolkit.models.onnx_file.patterns import Graph, Step
from deepfusion_toolkit.models.onnx_file.strided import unstrided

OPERATORS: dict[str, Operator] = layers.OPERATORS | values.OPERATORS
KNOWN = frozenset(OPERATORS) | frozenset(numbers.OPERATORS)
_STATISTICS = {"BatchNormalization": (3, 4)}
"""Inputs that are no parameters: they are not trained but followed."""


class OnnxNet(nn.Module):
    """A graph with one image input and one result.

    Attributes:
        fixed: the batch that the file was written for; None if it is free.
        ending: the softmax behind the result, which is left out; "" for none.
        channels_last: whether images are [N, H, W, 3] in the file.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        constants: Mapping[str, np.ndarray[Any, Any]],
        *,
        opset: int,
        image: str,
        result: str,
        ending: str,
        fixed: int | None,
        channels_last: bool,
    ) -> None:
        """Fold constants, and register what is left of them.

        Raises:
            ModelError: naming a node that cannot be computed.
        """
        super().__init__()
        self.fixed, self.ending, self.channels_last = fixed, ending, channels_last
        self._opset, self._image, self._result = opset, image, result
        self._numbers: dict[str, np.ndarray[Any, Any]] = {}
        self._tensors: dict[str, str] = {}
        known = {name: _value(array) for name, array in constants.items()}
        steps = Graph(unstrided(list(steps), known), known, {result}).fused()
        self._steps: list[Step] = []
        with torch.no_grad():
            for step in steps:
                if step.inputs and all(name in known or not name for name in step.inputs):
                    self._call(step, known, 1)
                else:
                    self._steps.append(step)
        self._register(known)

    def forward(self, image: Tensor) -> Tensor:
        """Images [N, 3, H, W], normalised as the file's network expects them -> its result."""
        found: dict[str, Value] = {**self._numbers}
        found |= {name: getattr(self, own) for name, own in self._tensors.items()}
        found[self._image] = image.permute(0, 2, 3, 1) if self.channels_last else image
        for step in self._steps:
            self._call(step, found, image.shape[0])
        result = found[self._result]
        return result if isinstance(result, Tensor) else torch.from_numpy(result)

    def _call(self, step: Step, found: dict[str, Value], batch: Any) -> None:  # noqa: ANN401
        inputs = tuple(found[name] if name else None for name in step.inputs)
        call = Call(
            step.kind, step.label, self._opset, step.attributes, len(step.outputs), inputs,
            batch, self.fixed,
        )  # fmt: skip
        whole = not any(isinstance(value, Tensor) for value in inputs)
        operator = (numbers.OPERATORS if whole else OPERATORS).get(step.kind)
        operator = operator or OPERATORS.get(step.kind)
        if operator is None:
            raise call.refuse("is not known with such inputs")
        made = _named(operator, call)
        results = made if isinstance(made, (list, tuple)) else [made]
        found.update(zip(step.outputs, results, strict=False))

    def _register(self, known: Mapping[str, Value]) -> None:
        """Keep the constants that steps use: as parameters what can be trained."""
        used = {name for step in self._steps for name in step.inputs if name}
        followed = {
            step.inputs[at] for step in self._steps for at in _STATISTICS.get(step.kind, ())
        }
        own: dict[int, str] = {}
        for name in sorted(used & set(known)):
            value = known[name]
            if not isinstance(value, Tensor):
                self._numbers[name] = value
                continue
            attribute = own.setdefault(id(value), f"value_{len(own)}")
            self._tensors[name] = attribute
            if hasattr(self, attribute):
                continue
            trained = value.is_floating_point() and value.numel() > 1 and name not in followed
            if trained:
                self.register_parameter(attribute, nn.Parameter(value))
            else:
                self.register_buffer(attribute, value)


def _value(array: np.ndarray[Any, Any]) -> Value:
    """Many floats are weights; a single one is a setting, whole numbers are sizes and indices."""
    weights = array.dtype.kind == "f" and array.size > 1
    return torch.from_numpy(array.copy()) if weights else array


def _named(operator: Callable[[Call], Any], call: Call) -> Any:  # noqa: ANN401 - see ``Result``
    """Call an operator; what torch or numpy object to is said with the node's name."""
    try:
        return operator(call)
    except ModelError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise call.refuse(f"does not compute ({first[:200]})") from error
