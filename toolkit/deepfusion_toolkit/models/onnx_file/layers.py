"""ONNX's layers with weights and windows, as torch computes them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_toolkit.models.onnx_file.call import Call, Operator, Result

_IMAGE = 4  # dimensions of [N, C, H, W]


def _windows(call: Call, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Pads as ONNX orders them, all begins before all ends, and strides."""
    spatial = len(kernel)
    strides = list(call.attribute("strides") or [1] * spatial)
    dilations = list(call.attribute("dilations") or [1] * spatial)
    how = call.attribute("auto_pad", "NOTSET")
    if how == "VALID":
        return [0] * 2 * spatial, strides
    if how == "NOTSET":
        return list(call.attribute("pads") or [0] * 2 * spatial), strides
    begins, ends = [], []
    for size, window, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        reach = (window - 1) * dilation + 1
        total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
        less, more = total // 2, total - total // 2
        begins.append(less if how == "SAME_UPPER" else more)
        ends.append(more if how == "SAME_UPPER" else less)
    return begins + ends, strides


def _padded(x: Tensor, pads: list[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Pad what torch's layers cannot themselves: uneven pads; returns the pads that are left."""
    half = len(pads) // 2
    begins, ends = pads[:half], pads[half:]
    if begins == ends:
        return x, begins
    turned = [side for pair in zip(begins[::-1], ends[::-1], strict=True) for side in pair]
    return functional.pad(x, turned, value=value), [0] * half


def _conv(call: Call) -> Result:
    x, weight, bias = call.tensor(0), call.tensor(1), call.optional(2)
    spatial = weight.ndim - 2
    convolve = {1: functional.conv1d, 2: functional.conv2d}.get(spatial)
    if convolve is None:
        raise call.refuse(f"has {spatial} dimensions")
    pads, strides = _windows(call, x, weight.shape[2:])
    x, even = _padded(x, pads)
    dilations = call.attribute("dilations") or [1] * spatial
    return convolve(x, weight, bias, strides, even, dilations, call.attribute("group", 1))


def _batch_norm(call: Call) -> Result:
    if call.attribute("training_mode", 0):
        raise call.refuse("is in training mode")
    x, weight, bias, mean, var = (call.tensor(at) for at in range(5))
    eps = call.attribute("epsilon", 1e-5)
    return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)


def _max_pool(call: Call) -> Result:
    x, kernel = call.tensor(), list(call.attribute("kernel_shape"))
    if call.outputs > 1 or len(kernel) != _IMAGE - 2:
        raise call.refuse("is not a pool of maps [N, C, H, W]")
    pads, strides = _windows(call, x, kernel)
    x, even = _padded(x, pads, -math.inf)
    dilations = call.attribute("dilations") or [1, 1]
    ceil = bool(call.attribute("ceil_mode", 0))
    return functional.max_pool2d(x, kernel, strides, even, dilations, ceil)


def _average_pool(call: Call) -> Result:
    x, kernel = call.tensor(), list(call.attribute("kernel_shape"))
    if len(kernel) != _IMAGE - 2 or any(n != 1 for n in call.attribute("dilations") or []):
        raise call.refuse("is not a plain pool of maps [N, C, H, W]")
    pads, strides = _windows(call, x, kernel)
    counted = bool(call.attribute("count_include_pad", 0))
    if any(pads) and pads[:2] != pads[2:] and not counted:
        raise call.refuse("has uneven pads that do not count")
    x, even = _padded(x, pads)
    ceil = bool(call.attribute("ceil_mode", 0))
    return functional.avg_pool2d(x, kernel, strides, even, ceil, counted)


def _gemm(call: Call) -> Result:
    a, b, c = call.tensor(0), call.tensor(1), call.optional(2)
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    if call.attribute("transA", 0):
        a = a.T
    plain = alpha == 1.0 and beta == 1.0 and (c is None or c.ndim == 1)
    if plain and call.attribute("transB", 0):
        return functional.linear(a, b, c)
    if plain:
        return functional.linear(a, b.T, c)
    product: Tensor = alpha * (a @ (b.T if call.attribute("transB", 0) else b))
    return product if c is None else product + beta * c


def _matmul(call: Call) -> Result:
    return torch.matmul(call.tensor(0), call.tensor(1))


def _layer_norm(call: Call) -> Result:
    x, weight, bias = call.tensor(0), call.optional(1), call.optional(2)
    axis = call.attribute("axis", -1) % x.ndim
    shape = [int(size) for size in x.shape[axis:]]
    return functional.layer_norm(x, shape, weight, bias, call.attribute("epsilon", 1e-5))


def _instance_norm(call: Call) -> Result:
    x, weight, bias = (call.tensor(at) for at in range(3))
    eps = call.attribute("epsilon", 1e-5)
    return functional.instance_norm(x, weight=weight, bias=bias, eps=eps)


def _group_norm(call: Call) -> Result:
    x, weight, bias = (call.tensor(at) for at in range(3))
    groups = call.attribute("num_groups")
    if len(weight) == groups != x.shape[1]:  # before opset 21 one value a group
        weight, bias = (v.repeat_interleave(int(x.shape[1]) // groups) for v in (weight, bias))
    return functional.group_norm(x, groups, weight, bias, call.attribute("epsilon", 1e-5))


def _global_average(call: Call) -> Result:
    x = call.tensor()
    return x.mean(list(range(2, x.ndim)), keepdim=True)


def _global_max(call: Call) -> Result:
    x = call.tensor()
    return x.amax(list(range(2, x.ndim)), keepdim=True)


def _pad(call: Call) -> Result:
    x, pads = call.tensor(), call.integers(1, "pads") or []
    how, value = call.attribute("mode", "constant"), call.number(2, "value") or 0.0
    axes = call.integers(3) or list(range(len(pads) // 2))
    sides: dict[Any, tuple[int, int]] = {
        axis % x.ndim: (pads[at], pads[at + len(axes)]) for at, axis in enumerate(axes)
    }
    turned = [side for axis in range(x.ndim - 1, -1, -1) for side in sides.get(axis, (0, 0))]
    while turned and turned[-2:] == [0, 0]:
        del turned[-2:]
    if not turned:
        return x
    if how == "constant":
        return functional.pad(x, turned, value=value)
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if how not in modes:
        raise call.refuse(f"pads in the mode {how}")
    return functional.pad(x, turned, mode=modes[how])


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Pad": _pad,
}
