"""Which source the next attacked image comes from: the one that does most harm, most often.

After PubDef (Sitawarin, Chang, Huang, Altoyan & Wagner, ICLR 2024), which samples its sources by
how well the model does against each.
"""

from collections.abc import Sequence

FLOOR = 0.3
"""Share of attacked images that all sources have in common in equal parts: none is forgotten."""


def weights(noticed: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Probability of each source.

    Args:
        noticed: share of a source's held-out examples that are noticed, or are right, in [0, 1].
        counts: how many examples that is of.

    Returns:
        Positive numbers that sum to 1; a source that is noticed less never gets less.
    """
    # Laplace's rule: a source that escaped never among few may still escape
    errors = [((1 - r) * n + 1) / (n + 2) for r, n in zip(noticed, counts, strict=True)]
    total = sum(errors)
    return [FLOOR / len(errors) + (1 - FLOOR) * error / total for error in errors]
