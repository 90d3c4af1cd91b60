"""Activations that exporters spell out, put together again, so that surgery finds them.

=========  ====================================================
Silu       ``x * sigmoid(x)``
HardSwish  ``x * hardsigmoid(x)``, also as ``x * clip(x + 3, 0, 6) / 6``
Gelu       ``x * (1 + erf(x / sqrt(2))) / 2`` in any order
=========  ====================================================
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_NEAR = 1e-5


@dataclass
class Step:
    """One node of an ONNX graph, before it is called.

    Attributes:
        kind: ONNX's name of the operator.
        label: for messages.
        inputs: names of values; "" where an optional one is left out.
        outputs: names of values.
        attributes: see ``Call``.
    """

    kind: str
    label: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


class Graph:
    """Steps in order, and the constants among their inputs."""

    def __init__(self, steps: list[Step], constants: Mapping[str, Any], results: set[str]) -> None:
        self.steps, self._constants, self._results = steps, constants, results

    def fused(self) -> list[Step]:
        """Return the steps with every pattern of the module's table as one step."""
        for match in (self._hard_sigmoids, self._hard_swishes, self._gated, self._gelus):
            self._readers: dict[str, list[Step]] = defaultdict(list)
            self._makers = {name: step for step in self.steps for name in step.outputs}
            for step in self.steps:
                for name in step.inputs:
                    self._readers[name].append(step)
            gone: set[int] = set()
            for last, kind, x, parts in match():
                last.kind, last.inputs = kind, [x]
                last.attributes = {"alpha": 1 / 6, "beta": 0.5} if kind == "HardSigmoid" else {}
                gone |= {id(part) for part in parts}
            self.steps = [step for step in self.steps if id(step) not in gone]
        return self.steps

    def _of(self, kind: str) -> Iterator[Step]:
        return (step for step in self.steps if step.kind == kind)

    def _next(self, step: Step | None, kind: str) -> Step | None:
        """The one step that reads this one's result, if it is of this kind."""
        if step is None or step.outputs[0] in self._results:
            return None
        readers = self._readers[step.outputs[0]]
        return readers[0] if len(readers) == 1 and readers[0].kind == kind else None

    def _by(self, step: Step | None, *numbers: tuple[str, float]) -> str | None:
        """The other operand, where a step computes with one of these numbers."""
        if step is None:
            return None
        for at, name in enumerate(step.inputs):
            value = np.asarray(self._constants.get(name, np.zeros(0)))
            for kind, number in numbers if value.size == 1 else ():
                swapped = kind == "Div" and at == 0
                if step.kind == kind and not swapped and abs(float(value.item()) - number) < _NEAR:
                    return step.inputs[1 - at]
        return None

    def _clipped(self, step: Step) -> bool:
        given = [self._constants.get(name) for name in step.inputs[1:3]]
        low, high = [
            step.attributes.get(key) if value is None else float(np.asarray(value).item())
            for key, value in zip(("min", "max"), [*given, None, None], strict=False)
        ]
        return (low, high) == (0.0, 6.0)

    def _shifted_clip(self, clip: Step) -> tuple[str, Step] | None:
        """``x`` and the sum of a ``clip(x + 3, 0, 6)``."""
        plus = self._makers.get(clip.inputs[0])
        x = self._by(plus, ("Add", 3.0))
        if x is None or plus is None or not self._clipped(clip) or self._next(plus, "Clip") is None:
            return None
        return x, plus

    def _hard_sigmoids(self) -> Iterator[tuple[Step, str, str, list[Step]]]:
        for clip in self._of("Clip"):
            found = self._shifted_clip(clip)
            last = self._next(clip, "Div") or self._next(clip, "Mul")
            if found and last and self._by(last, ("Div", 6.0), ("Mul", 1 / 6)) == clip.outputs[0]:
                yield last, "HardSigmoid", found[0], [found[1], clip]

    def _hard_swishes(self) -> Iterator[tuple[Step, str, str, list[Step]]]:
        for clip in self._of("Clip"):
            found, times = self._shifted_clip(clip), self._next(clip, "Mul")
            last = self._next(times, "Div") or self._next(times, "Mul")
            if not found or times is None or set(times.inputs) != {found[0], clip.outputs[0]}:
                continue
            if last and self._by(last, ("Div", 6.0), ("Mul", 1 / 6)) == times.outputs[0]:
                yield last, "HardSwish", found[0], [found[1], clip, times]

    def _gated(self) -> Iterator[tuple[Step, str, str, list[Step]]]:
        for gate in list(self.steps):
            slope, offset = gate.attributes.get("alpha", 0.2), gate.attributes.get("beta", 0.5)
            hard = gate.kind == "HardSigmoid" and abs(slope - 1 / 6) < _NEAR and offset == 0.5  # noqa: PLR2004
            last = self._next(gate, "Mul") if hard or gate.kind == "Sigmoid" else None
            if last and set(last.inputs) == {gate.inputs[0], gate.outputs[0]}:
                yield last, "HardSwish" if hard else "Silu", gate.inputs[0], [gate]

    def _gelus(self) -> Iterator[tuple[Step, str, str, list[Step]]]:
        root = math.sqrt(2)
        for erf in self._of("Erf"):
            scaled = self._makers.get(erf.inputs[0])
            x = self._by(scaled, ("Div", root), ("Mul", 1 / root))
            plus = self._next(erf, "Add")
            if x is None or scaled is None or self._by(plus, ("Add", 1.0)) != erf.outputs[0]:
                continue
            times = self._next(plus, "Mul")
            if plus is None or times is None or self._next(scaled, "Erf") is None:
                continue
            (other,) = [name for name in times.inputs if name != plus.outputs[0]] or [""]
            half = self._makers.get(other)
            if other == x:
                last = self._next(times, "Mul") or self._next(times, "Div")
                if last and self._by(last, ("Mul", 0.5), ("Div", 2.0)) == times.outputs[0]:
                    yield last, "Gelu", x, [scaled, erf, plus, times]
            elif (
                half and self._by(half, ("Mul", 0.5), ("Div", 2.0)) == x and self._next(half, "Mul")
            ):
                yield times, "Gelu", x, [scaled, erf, plus, half]
