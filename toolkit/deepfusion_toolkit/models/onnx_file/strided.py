"""A view by strides, which torch's newer exporter writes as a Gather, made a reshape again.

A pooled map [N, C, 1, 1] may become ``Gather(flat, range(N) * C + range(C))`` of all images' values
in a row: the same values in the same order, but indices that count the images of a batch.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from deepfusion_toolkit.models.onnx_file.patterns import Step


def unstrided(steps: list[Step], constants: Mapping[str, Any]) -> list[Step]:
    """Return the steps with every Gather that only reshapes as a Reshape.

    That the range counts all images is left to the comparison with ONNX Runtime.
    """
    makers = {name: step for step in steps for name in step.outputs}
    left: set[int] = set()
    for step in steps:
        if step.kind != "Gather" or step.attributes.get("axis", 0) != 0:
            continue
        flat = makers.get(step.inputs[0])
        if flat is None or flat.kind != "Reshape" or _numbers(constants, flat, 1) != [-1]:
            continue
        found = _shape(step.inputs[1], makers, constants)
        if found is None:
            continue
        shape, parts = found
        step.kind, step.inputs = "Reshape", [flat.inputs[0]]
        step.attributes = {"shape": [-1, *shape]}
        left |= {id(part) for part in (flat, *parts)}
    kept: list[Step] = []
    read: set[str] = set()
    for step in reversed(steps):
        if id(step) not in left or read & set(step.outputs):
            kept.append(step)
            read.update(step.inputs)
    return kept[::-1]


def _numbers(constants: Mapping[str, Any], step: Step, at: int) -> list[int] | None:
    value = constants.get(step.inputs[at]) if len(step.inputs) > at else None
    return None if value is None else [int(n) for n in np.asarray(value).ravel()]


def _shape(
    index: str, makers: Mapping[str, Step], constants: Mapping[str, Any]
) -> tuple[list[int], list[Step]] | None:
    """Read ``unsqueeze(range * size) + constants``: what one image's part is, and its steps."""
    parts, offsets = [], np.zeros((), np.int64)
    for step in _chain(index, makers, constants):
        parts.append(step)
        if step.kind == "Add":
            fixed = next(np.asarray(constants[n]) for n in step.inputs if n in constants)
            offsets = offsets + fixed.astype(np.int64)
    if [step.kind for step in parts[-3:]] != ["Unsqueeze", "Mul", "Range"]:
        return None
    times, counted = parts[-2:]
    size = next((_numbers(constants, times, n) for n in (0, 1) if times.inputs[n] in constants), [])
    in_order = offsets.ndim > 1 and offsets.ravel().tolist() == list(range(offsets.size))
    if not in_order or len(offsets) != 1 or size != [offsets.size]:
        return None
    if _numbers(constants, counted, 0) != [0] or _numbers(constants, counted, 2) != [1]:
        return None
    return list(offsets.shape[1:]), parts


def _chain(index: str, makers: Mapping[str, Step], constants: Mapping[str, Any]) -> Iterator[Step]:
    """Go back from an index through sums with constants to what counts."""
    while (step := makers.get(index)) is not None:
        yield step
        if step.kind not in ("Add", "Unsqueeze", "Mul"):
            return
        free = [name for name in step.inputs if name not in constants]
        if len(free) != 1:
            return
        index = free[0]
