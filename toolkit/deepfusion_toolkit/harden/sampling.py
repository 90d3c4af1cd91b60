"""Which source the next attacked image comes from: the one that fools the model most, most often.

After PubDef (Sitawarin, Chang, Huang, Altoyan & Wagner, ICLR 2024), which samples its sources by
how well the model does against each.
"""

from collections.abc import Sequence

FLOOR = 0.3
"""Share of attacked images that all sources have in common in equal parts: none is forgotten."""


def weights(robust: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Probability of each source.

    Args:
        robust: share of held-out examples that the model has right, one a source.
        counts: how many examples that share is of.

    Returns:
        Positive numbers that sum to 1; a source that fools the model more never gets less.
    """
    # Laplace's rule: a source that fooled nobody among few may still fool somebody
    errors = [((1 - r) * n + 1) / (n + 2) for r, n in zip(robust, counts, strict=True)]
    total = sum(errors)
    return [FLOOR / len(errors) + (1 - FLOOR) * error / total for error in errors]
