"""The attacker who only asks: Square on the fused probabilities, fresh factors at every query.

Andriushchenko et al., ECCV 2020, by pyautoattack. The search for an image ends at the first query
that is answered wrongly; whether other draws answer the same is for the jury to see.
"""

from collections.abc import Sequence

from torch import Tensor

from deepfusion_toolkit import attacks
from deepfusion_toolkit.attacks import battery
from deepfusion_toolkit.attacks.one_by_one import one_by_one
from deepfusion_toolkit.attacks.parts import Effort, Plan
from deepfusion_toolkit.threats.case import Attack, Case
from deepfusion_toolkit.threats.network import Fresh, seed_of

_SQUARE = Plan("standard", ("square",), 1, "")


def square(case: Case, eps: float) -> Attack:
    """Square with ``settings.queries`` queries an image.

    Raises:
        ModelError: pyautoattack is not installed.
    """
    seed = seed_of("query", case.settings.seed)
    network = Fresh(case.jury.defended, case.jury.members or case.jury.plan.members, seed=seed)
    effort = Effort(queries=case.settings.queries)

    def one(image: Tensor, label: Tensor, own: int) -> Tensor:
        network.begin(str(own))
        return battery.run(network, image, label, eps, seed=own, plan=_SQUARE, effort=effort)

    def craft(images: Tensor, labels: Tensor, keys: Sequence[str]) -> Tensor:
        return one_by_one("square", one, images, labels, keys, attacks.Settings(eps=eps, seed=seed))

    return Attack("query", "Square", eps, {"queries": effort.queries}, craft)
