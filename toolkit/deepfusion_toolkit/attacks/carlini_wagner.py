"""Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks" (S&P 2017), by ART.

The smallest change that crosses the decision boundary of the mean logits, as implemented by the
Adversarial Robustness Toolbox (MIT): L2 with a line search in the place of the paper's Adam, and
L-infinity by shrinking a threshold tau. Both search in tanh space, where a pixel at 0 or 1 hardly
moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import Tensor

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.attacks.art_library import attack_with, evasion
from deepfusion_toolkit.attacks.mean_logits import MeanLogits, Spent
from deepfusion_toolkit.attacks.one_by_one import one_by_one
from deepfusion_toolkit.attacks.settings import Settings
from deepfusion_toolkit.surgery import ErodedModel


@dataclass(frozen=True)
class Search:
    """How hard the optimiser tries; the defaults are ART's own, for L2.

    Attributes:
        confidence: kappa, the margin in logits by which the result shall be wrong; 0 stops at the
            boundary, the paper's transfer experiments use up to 40.
        iterations: steps of the optimiser for each constant, at least 1.
        searches: L2 only: values of the constant c that are tried, at least 1.
        learning_rate: first step size, in tanh space.
    """

    confidence: float = 0.0
    iterations: int = 10
    searches: int = 10
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.searches < 1:
            raise UsageError(
                f"iterations {self.iterations} and searches {self.searches} must be at least 1",
                "raise them",
            )
        if not (0 <= self.confidence < inf and 0 < self.learning_rate < inf):
            raise UsageError(
                f"confidence {self.confidence:g} must be a number from 0 on and the learning rate "
                f"{self.learning_rate:g} one above 0",
                "correct them",
            )


DEFAULT = Search()
DEFAULT_LINF = Search(iterations=100)
"""Ten steps of 0.01 in tanh space move a pixel by 13/255 at most: less than the usual epsilon."""


def carlini_wagner_l2(
    surrogates: Sequence[ErodedModel],
    images: Tensor,
    labels: Tensor,
    keys: Sequence[str],
    settings: Settings,
    *,
    search: Search = DEFAULT,
    spent: Spent | None = None,
) -> Tensor:
    """Look for the smallest change in the L2 norm, then cut it to epsilon.

    The attack itself has no epsilon: its result is projected onto the L-infinity ball of
    ``settings`` and may no longer be adversarial there. An image for which it finds nothing comes
    back unchanged.

    Args:
        surrogates: models with the same classes in the same order; their erosion is not used.
        images: clean, [N, 3, H, W] in [0, 1].
        labels: [N], the true classes, or the wanted ones if targeted.
        keys: N names; the result for an image does not depend on the batch.
        settings: ``eps`` and ``targeted`` are used; ``seed`` too, though nothing is drawn.
        search: see ``Search``.
        spent: passes and queries are added here.

    Returns:
        [N, 3, H, W] in [0, 1], within epsilon; not yet rounded.

    Raises:
        ModelError: ART is not installed, or a result is not finite.
    """
    attacks = evasion()

    def make(estimator: object) -> Any:  # noqa: ANN401 - ART has no type hints
        return attacks.CarliniL2Method(
            estimator,
            confidence=search.confidence,
            targeted=settings.targeted,
            learning_rate=search.learning_rate,
            binary_search_steps=search.searches,
            max_iter=search.iterations,
            verbose=False,
        )

    attack = attack_with(make, MeanLogits(surrogates, spent))
    return one_by_one("carlini-wagner-l2", attack, images, labels, keys, settings)


KAPPA = 40.0
"""Confidence of the paper's transfer experiments."""


def transferable(
    surrogates: Sequence[ErodedModel],
    images: Tensor,
    labels: Tensor,
    keys: Sequence[str],
    settings: Settings,
) -> tuple[Tensor, int]:
    """``carlini_wagner_l2`` at the paper's confidence for transfer, and passes spent on each image.

    ``settings.steps`` are its iterations, ``settings.samples`` its searches.
    """
    spent = Spent()
    search = Search(KAPPA, settings.steps, settings.samples)
    found = carlini_wagner_l2(
        surrogates, images, labels, keys, settings, search=search, spent=spent
    )
    return found, spent.passes // max(1, len(images))


def carlini_wagner_linf(
    surrogates: Sequence[ErodedModel],
    images: Tensor,
    labels: Tensor,
    keys: Sequence[str],
    settings: Settings,
    *,
    search: Search = DEFAULT_LINF,
    spent: Spent | None = None,
) -> Tensor:
    """Look for the smallest change in the L-infinity norm, then cut it to epsilon.

    Arguments, result and errors are those of ``carlini_wagner_l2``, but untargeted only and about
    ten times as expensive (some 2000 passes an image).

    Raises:
        UsageError: ``settings`` asks for targets. ART's success test for this norm is "another
            class than the one given", so its targeted results are not targeted.
        ModelError: ART is not installed, or a result is not finite.
    """
    if settings.targeted:
        raise UsageError(
            "the library's Carlini-Wagner attack in the L-infinity norm knows no targets",
            "leave the targets out, or take the L2 norm",
        )
    attacks = evasion()

    def make(estimator: object) -> Any:  # noqa: ANN401 - ART has no type hints
        return attacks.CarliniLInfMethod(
            estimator,
            confidence=search.confidence,
            learning_rate=search.learning_rate,
            max_iter=search.iterations,
            verbose=False,
        )

    attack = attack_with(make, MeanLogits(surrogates, spent))
    return one_by_one("carlini-wagner-linf", attack, images, labels, keys, settings)
