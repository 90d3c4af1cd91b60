"""Arithmetic on sizes: what an ONNX graph computes of shapes alone never reaches torch's graph."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfusion_toolkit.models.onnx_file.call import Call, Numbers, Operator, Result, symbolic

_WHOLE = {2, 3, 4, 5, 6, 7, 9, 12, 13}
"""TensorProto's whole numbers and booleans."""
_INT64, _FLOAT, _BOOL = 7, 1, 9


def _at(call: Call, at: int = 0) -> Numbers:
    value = call.inputs[at]
    if value is None or isinstance(value, Tensor):
        raise call.refuse("needs whole numbers")
    return value


def _two(function: Any) -> Operator:  # noqa: ANN401 - a function of numpy's
    def run(call: Call) -> Result:
        return np.asarray(function(_at(call), _at(call, 1)))

    return run


def _divide(call: Call) -> Result:
    a, b = _at(call), _at(call, 1)
    whole = a.dtype.kind in "iuO" and b.dtype.kind in "iuO"
    return np.asarray(a // b if whole else a / b)


def _cast(call: Call) -> Result:
    value, kind = _at(call), call.attribute("to")
    if symbolic(value) and kind in _WHOLE:
        return value
    kinds = {_FLOAT: np.float32, _BOOL: np.bool_}
    return value.astype(kinds.get(kind, np.int64 if kind in _WHOLE else np.float64))


def _gather(call: Call) -> Result:
    indices = _at(call, 1).astype(np.int64)
    return np.asarray(np.take(_at(call), indices, axis=call.attribute("axis", 0)))


def _slice(call: Call) -> Result:
    value = _at(call)
    return value[slices(call, value.ndim, backwards=True)]


def slices(call: Call, dimensions: int, *, backwards: bool = False) -> tuple[slice, ...]:
    """Read what a Slice takes of each dimension.

    Raises:
        ModelError: it goes backwards, which numpy can and torch cannot.
    """
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    if starts is None or ends is None:
        raise call.refuse("has no starts and ends")
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = call.integers(4, "steps") or [1] * len(starts)
    taken = [slice(None)] * dimensions
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1 and not (backwards and step):
            raise call.refuse(f"goes in steps of {step}")
        taken[axis] = slice(start, end, step)
    return tuple(taken)


def _clip(call: Call) -> Result:
    low, high = call.number(1, "min"), call.number(2, "max")
    at_least = _at(call) if low is None else np.maximum(_at(call), low)
    return at_least if high is None else np.minimum(at_least, high)


def _unsqueeze(call: Call) -> Result:
    value = _at(call)
    axes = call.integers(1, "axes") or [0]
    full = value.ndim + len(axes)
    return np.expand_dims(value, tuple(axis % full for axis in axes))


def _squeeze(call: Call) -> Result:
    axes = call.integers(1, "axes")
    return np.squeeze(_at(call), None if axes is None else tuple(axes))


def _reshape(call: Call) -> Result:
    return _at(call).reshape([int(n) for n in call.integers(1, "shape") or []])


def _where(call: Call) -> Result:
    return np.where(_at(call).astype(bool), _at(call, 1), _at(call, 2))


def _filled(call: Call) -> Result:
    given = call.attribute("value")
    value = np.zeros(1, np.float32) if given is None else np.asarray(given).reshape(1)
    shape = call.integers(0) or []
    if any(isinstance(size, torch.SymInt) for size in shape):
        return torch.full(tuple(shape), value.item(), dtype=torch.from_numpy(value).dtype)
    return np.full([int(size) for size in shape], value[0], value.dtype)


def _range(call: Call) -> Result:
    first, limit, step = (call.integers(at) or [0] for at in range(3))
    if isinstance(limit[0], torch.SymInt):
        raise call.refuse("counts the images of a batch")  # numpy would fix it without a word
    return np.arange(first[0], limit[0], step[0])


def _reduce_prod(call: Call) -> Result:
    keep = bool(call.attribute("keepdims", 1))
    return np.asarray(np.prod(_at(call), keepdims=keep))


OPERATORS: dict[str, Operator] = {
    "Add": _two(np.add),
    "And": _two(np.logical_and),
    "Cast": _cast,
    "Ceil": lambda call: np.ceil(_at(call)),
    "Clip": _clip,
    "Concat": lambda call: np.concatenate(
        [np.asarray(_at(call, n)) for n in range(len(call.inputs))], call.attribute("axis")
    ),
    "ConstantOfShape": _filled,
    "Div": _divide,
    "Equal": _two(lambda a, b: a == b),
    "Expand": lambda call: np.broadcast_to(_at(call), [int(n) for n in call.integers(1) or []]),
    "Floor": lambda call: np.floor(_at(call)),
    "Gather": _gather,
    "Greater": _two(lambda a, b: a > b),
    "Less": _two(lambda a, b: a < b),
    "Max": _two(np.maximum),
    "Min": _two(np.minimum),
    "Mod": _two(np.mod),
    "Mul": _two(np.multiply),
    "Neg": lambda call: -_at(call),
    "Not": lambda call: ~_at(call).astype(bool),
    "Range": _range,
    "ReduceProd": _reduce_prod,
    "Reshape": _reshape,
    "Shape": lambda call: np.array(_at(call).shape),
    "Slice": _slice,
    "Sqrt": lambda call: np.sqrt(_at(call)),
    "Squeeze": _squeeze,
    "Sub": _two(np.subtract),
    "Tile": lambda call: np.tile(_at(call), call.integers(1) or [1]),
    "Transpose": lambda call: np.transpose(_at(call), call.attribute("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""ONNX's operators on numbers alone."""
