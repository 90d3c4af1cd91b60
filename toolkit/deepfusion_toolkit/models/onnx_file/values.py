"""ONNX's activations, arithmetic and moves of values, as torch computes them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_toolkit.models.onnx_file.call import Call, Numbers, Operator, Result, plain
from deepfusion_toolkit.models.onnx_file.numbers import slices

_SIXTH = 1 / 6
_SOFTMAX_OF_ONE_AXIS = 13
_KINDS = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}


def _one(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call: function(call.tensor())


def _operand(call: Call, at: int) -> Any:  # noqa: ANN401 - a tensor or a number
    """A tensor, or a Python number: these take the other's type, as ONNX's constants have it."""
    value = call.inputs[at]
    if isinstance(value, np.ndarray) and value.size == 1:
        return plain(value.ravel()[0])
    return call.tensor(at)


def _two(function: Callable[[Any, Any], Tensor]) -> Operator:
    return lambda call: function(_operand(call, 0), _operand(call, 1))


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(call: Call) -> Result:
        found = call.tensor(0)
        for at in range(1, len(call.inputs)):
            found = function(found, call.tensor(at).to(found.dtype))
        return found

    return run


def _clip(call: Call) -> Result:
    low, high = call.number(1, "min"), call.number(2, "max")
    x = call.tensor()
    if low == 0 and (high is None or math.isinf(high)):
        return functional.relu(x)
    if (low, high) == (0, 6):
        return functional.relu6(x)
    return x if low is None and high is None else x.clamp(low, high)


def _hard_sigmoid(call: Call) -> Result:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if abs(alpha - _SIXTH) < 1e-6 and beta == 0.5:  # noqa: PLR2004 - torch's own
        return functional.hardsigmoid(call.tensor())
    found: Tensor = (call.tensor() * alpha + beta).clamp(0, 1)
    return found


def _gelu(call: Call) -> Result:
    shape: str = call.attribute("approximate", "none")
    found: Tensor = functional.gelu(call.tensor(), approximate=shape)
    return found


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def run(call: Call) -> Result:
        x = call.tensor()
        newer = call.opset >= _SOFTMAX_OF_ONE_AXIS
        axis: int = call.attribute("axis", -1 if newer else 1) % x.ndim
        if newer:
            return function(x, dim=axis)
        if axis == x.ndim - 1:
            return function(x, dim=-1)
        found: Tensor = function(x.flatten(axis), dim=-1).unflatten(-1, x.shape[axis:])
        return found

    return run


def _reduced(function: Callable[..., Tensor]) -> Operator:
    def run(call: Call) -> Result:
        x, axes = call.tensor(), call.integers(1, "axes")
        if not axes:
            if call.attribute("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.ndim))
        return function(x, axes, keepdim=bool(call.attribute("keepdims", 1)))

    return run


def _length(x: Tensor, axes: list[int], *, keepdim: bool) -> Tensor:
    return x.square().sum(axes, keepdim=keepdim).sqrt()


def _reshape(call: Call) -> Result:
    x, shape = call.tensor(), call.integers(1, "shape") or []
    if not call.attribute("allowzero", 0):
        shape = [x.shape[at] if size == 0 else size for at, size in enumerate(shape)]
    # written for one image: what begins with this one image begins with all of them
    own = shape and call.fixed is not None and shape[0] == call.fixed and x.ndim
    if own and x.shape[0] == call.batch:
        shape[0] = call.batch
    return x.reshape(shape)


def _flatten(call: Call) -> Result:
    x, axis = call.tensor(), call.attribute("axis", 1)
    axis = axis if axis >= 0 else axis + x.ndim
    return x.flatten(axis) if axis == 1 else x.flatten(axis).flatten(0, axis - 1)


def _concat(call: Call) -> Result:
    parts = [call.tensor(at) for at in range(len(call.inputs))]
    axis = call.attribute("axis") % parts[0].ndim
    if axis and call.fixed is not None:  # a constant of one image, beside all of them
        full = next((p for p in parts if p.shape[0] == call.batch), parts[0])
        parts = [
            p if p.shape[0] == full.shape[0] else p.expand(full.shape[0], *[-1] * (p.ndim - 1))
            for p in parts
        ]
    return torch.cat(parts, axis)


def _expand(call: Call) -> Result:
    x, wanted = call.tensor(), call.integers(1) or []
    own = [1] * (len(wanted) - x.ndim) + list(x.shape)
    wanted = [1] * (len(own) - len(wanted)) + wanted
    kept = [
        mine if isinstance(size, int) and size == 1 else size
        for mine, size in zip(own, wanted, strict=True)
    ]
    return x.expand(kept)


def _gather(call: Call) -> Result:
    x, axis = call.tensor(), call.attribute("axis", 0)
    indices = np.asarray(call.numbers(1))
    if indices.ndim == 0:
        return x.select(axis, int(indices))
    places = torch.from_numpy(np.ascontiguousarray(indices.astype(np.int64).ravel()))
    axis %= x.ndim
    taken = x.index_select(axis, places)
    return taken if indices.ndim == 1 else taken.unflatten(axis, indices.shape)


def _split(call: Call) -> Result:
    x, axis = call.tensor(), call.attribute("axis", 0)
    sizes = call.integers(1, "split")
    if sizes is None:
        whole, count = int(x.shape[axis]), call.attribute("num_outputs", call.outputs)
        each = -(-whole // count)
        sizes = [min(each, whole - each * at) for at in range(count)]
    return list(x.split(sizes, axis))


def _squeeze(call: Call) -> Result:
    axes = call.integers(1, "axes")
    return call.tensor().squeeze() if axes is None else call.tensor().squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Result:
    x = call.tensor()
    axes = call.integers(1, "axes") or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(call: Call) -> Result:
    x = call.tensor()
    return x.permute(call.attribute("perm") or list(range(x.ndim))[::-1])


def _shape(call: Call) -> Result:
    sizes: Numbers = np.array([*call.tensor().shape], dtype=object)
    return sizes[call.attribute("start", 0) : call.attribute("end")]


def _cast(call: Call) -> Result:
    kind = _KINDS.get(call.attribute("to"))
    if kind is None:
        raise call.refuse("casts to a type that images do not have")
    return call.tensor().to(kind)


def _where(call: Call) -> Result:
    return torch.where(call.tensor(0), _operand(call, 1), _operand(call, 2))


def _dropout(call: Call) -> Result:
    training = call.numbers(2)
    if training is not None and bool(np.asarray(training).any()):
        raise call.refuse("is in training mode")
    return call.tensor()


OPERATORS: dict[str, Operator] = {
    "Abs": _one(torch.abs),
    "Add": _two(lambda a, b: a + b),
    "Cast": _cast,
    "Celu": lambda call: functional.celu(call.tensor(), call.attribute("alpha", 1.0)),
    "Clip": _clip,
    "Concat": _concat,
    "Div": _two(lambda a, b: a / b),
    "Dropout": _dropout,
    "Elu": lambda call: functional.elu(call.tensor(), call.attribute("alpha", 1.0)),
    "Equal": _two(lambda a, b: a == b),
    "Erf": _one(torch.erf),
    "Exp": _one(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Greater": _two(lambda a, b: a > b),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _one(functional.hardswish),
    "Identity": _one(lambda x: x),
    "LeakyRelu": lambda call: functional.leaky_relu(call.tensor(), call.attribute("alpha", 0.01)),
    "Less": _two(lambda a, b: a < b),
    "Log": _one(torch.log),
    "LogSoftmax": _softmax(functional.log_softmax),
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Mish": _one(functional.mish),
    "Mul": _two(lambda a, b: a * b),
    "Neg": _one(torch.neg),
    "Pow": _two(lambda a, b: a**b),
    "PRelu": lambda call: torch.where(
        call.tensor() < 0, call.tensor() * call.tensor(1), call.tensor()
    ),
    "Reciprocal": _one(torch.reciprocal),
    "ReduceL2": _reduced(_length),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Relu": _one(functional.relu),
    "Reshape": _reshape,
    "Selu": _one(functional.selu),
    "Shape": _shape,
    "Sigmoid": _one(torch.sigmoid),
    "Silu": _one(functional.silu),
    "Slice": lambda call: call.tensor()[slices(call, call.tensor().ndim)],
    "Softmax": _softmax(torch.softmax),
    "Softplus": _one(functional.softplus),
    "Softsign": _one(functional.softsign),
    "Split": _split,
    "Sqrt": _one(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _two(lambda a, b: a - b),
    "Tanh": _one(torch.tanh),
    "Tile": lambda call: call.tensor().repeat(*(call.integers(1) or [])),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""``Silu`` is no operator of ONNX: ``patterns`` makes it of Sigmoid and Mul."""
