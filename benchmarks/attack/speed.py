"""What crafting costs over the bare floor: as many passes of the same nets, nothing else."""

import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from deepfusion_toolkit.attacks import Settings, attack, prepare
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import ErodedModel

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Speed(msgspec.Struct, frozen=True):
    """Ratios from one process, medians over interleaved rounds.

    Attributes:
        throughput_over_floor: images per second of the attack over those of the bare passes.
        peak_memory_over_bare: peak of what a run adds to the process, over that of bare passes.
        floor_ms, attack_ms: per image and pass, seen once on this machine.
    """

    throughput_over_floor: float
    peak_memory_over_bare: float | None
    floor_ms: float
    attack_ms: float
    batch: int
    rounds: int


def bare(prepared: Sequence[ErodedModel], images: Tensor, passes: int) -> None:
    """Forward and backward to the input, one net after the other, inputs at the nets' own size."""
    with torch.no_grad():
        inputs = [p.fit(images).contiguous(memory_format=torch.channels_last) for p in prepared]
    ones = [torch.ones(len(images), p.width) for p in prepared]
    for at in range(passes):
        k = at % len(prepared)
        x = inputs[k].detach().requires_grad_(True)
        torch.autograd.grad(prepared[k](x, ones[k]).logits.sum(), x)


def measure(
    models: Sequence[Classifier],
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    passes: int,
    rounds: int,
) -> Speed:
    """Time and weigh an attack of ``passes`` passes against as many bare ones, in turn."""
    floor = prepare(models, Settings(erosion=0.0, feature_weight=0.0))
    prepared = prepare(models, settings)
    keys = [str(n) for n in range(len(images))]

    def crafting() -> None:
        attack(prepared, images, labels, keys, settings)

    def passing() -> None:
        bare(floor, images, passes)

    both: list[tuple[float, float]] = []
    weights: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        (floor_s, floor_peak), (attack_s, attack_peak) = _run(passing), _run(crafting)
        both.append((floor_s, attack_s))
        if floor_peak and attack_peak:
            weights.append((floor_peak, attack_peak))
    times = np.array(both[1:])  # the first round warms up
    each = 1000 / passes / len(images)
    return Speed(
        throughput_over_floor=float(np.median(times[:, 0] / times[:, 1])),
        peak_memory_over_bare=(
            float(np.median([a / f for f, a in weights[1:]])) if len(weights) > 1 else None
        ),
        floor_ms=float(np.median(times[:, 0]) * each),
        attack_ms=float(np.median(times[:, 1]) * each),
        batch=len(images),
        rounds=rounds,
    )


def _run(work: Callable[[], None]) -> tuple[float, float | None]:
    """Seconds, and by how many KiB the resident memory peaked above where it began.

    Freed memory that the allocator keeps would hide the peak: it is handed back first.
    """
    _hand_back()
    began = _resident("VmRSS") if _forget_peak() else None
    start = time.perf_counter()
    work()
    took = time.perf_counter() - start
    return took, None if began is None else max(1.0, _resident("VmHWM") - began)


def _hand_back() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others need not
    if trim is not None:
        trim(0)


def _forget_peak() -> bool:
    """Linux forgets the high-water mark on request; elsewhere memory is not measured."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _resident(field: str) -> float:
    line = next(li for li in STATUS.read_text().splitlines() if li.startswith(field))
    return float(line.split()[1])
