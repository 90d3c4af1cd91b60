"""AutoAttack (Croce & Hein, ICML 2020) on the mean logits of surrogates, for transfer."""

from collections.abc import Sequence

from torch import Tensor

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.attacks.battery import library, run
from deepfusion_toolkit.attacks.mean_logits import MeanLogits, Spent
from deepfusion_toolkit.attacks.one_by_one import one_by_one
from deepfusion_toolkit.attacks.parts import STANDARD, Effort, plan_for
from deepfusion_toolkit.attacks.settings import Settings
from deepfusion_toolkit.surgery import ErodedModel


def auto_attack(
    surrogates: Sequence[ErodedModel],
    images: Tensor,
    labels: Tensor,
    keys: Sequence[str],
    settings: Settings,
    *,
    effort: Effort = STANDARD,
    spent: Spent | None = None,
) -> Tensor:
    """Run the standard version against the mean logits, adapted to few classes by ``plan_for``.

    It stops at the first change that fools the mean logits; an image that resists comes back
    unchanged, and so does one that is wrong already.

    Args:
        surrogates: models with the same classes in the same order; their erosion is not used.
        images: clean, [N, 3, H, W] in [0, 1].
        labels: [N], the true classes.
        keys: N names; the result for an image depends on the seed and its name, never on the batch.
        settings: ``eps`` and ``seed`` are used.
        effort: see ``Effort``.
        spent: passes and queries are added here.

    Returns:
        [N, 3, H, W] in [0, 1], within epsilon; not yet rounded.

    Raises:
        UsageError: ``settings`` asks for targets, which AutoAttack does not know.
        ModelError: pyautoattack is not installed, there is one class, or a result is not finite.
    """
    if settings.targeted:
        raise UsageError("AutoAttack knows no targets", "leave them out")
    library()
    model = MeanLogits(surrogates, spent)

    def attack(image: Tensor, label: Tensor, seed: int) -> Tensor:
        plan = plan_for(model.classes(image))
        return run(model, image, label, settings.eps, seed=seed, plan=plan, effort=effort)

    return one_by_one("auto-attack", attack, images, labels, keys, settings)
