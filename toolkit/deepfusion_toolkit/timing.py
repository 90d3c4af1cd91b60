"""Fair timing: every variant once a round, in turn, so that drift of the machine hits all alike."""

import time
from collections.abc import Callable, Mapping

import msgspec
import numpy as np


class Timing(msgspec.Struct, frozen=True):
    """One variant's cost.

    Attributes:
        median_ms, p95_ms, p99_ms: over all rounds.
        ratio: median over rounds of its time divided by the base's time of the same round.
        ratio_p95: the 95th percentile of the same quotients.
    """

    median_ms: float
    p95_ms: float
    ratio: float
    ratio_p95: float
    p99_ms: float


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    *,
    base: str,
    rounds: int,
    warm_up: int = 3,
    clock: Callable[[], int] = time.perf_counter_ns,
    after_round: Callable[[int], object] = lambda _rounds: None,
) -> dict[str, Timing]:
    """Time variants in rounds that each begin with another one.

    Args:
        variants: what to call, by name.
        base: the variant that ratios are to.
        rounds: how many are counted, at least 1.
        warm_up: rounds before these.
        clock: nanoseconds.
        after_round: hears of each finished round.
    """
    names = list(variants)
    taken = np.zeros((rounds, len(names)))
    for at in range(-warm_up, rounds):
        first = at % len(names)
        for index in (*range(first, len(names)), *range(first)):
            start = clock()
            variants[names[index]]()
            if at >= 0:
                taken[at, index] = (clock() - start) / 1e6
        after_round(1)
    quotients = taken / taken[:, [names.index(base)]]
    return {
        name: Timing(
            float(np.median(taken[:, index])),
            float(np.percentile(taken[:, index], 95)),
            float(np.median(quotients[:, index])),
            float(np.percentile(quotients[:, index], 95)),
            float(np.percentile(taken[:, index], 99)),
        )
        for index, name in enumerate(names)
    }
