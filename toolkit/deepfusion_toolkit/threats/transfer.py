"""Attackers who never ask the defence: they craft on surrogates, or bring a set.

*Oblivious*: knows the task, its classes and public models, nothing of the defence. *Aware*: knows
also how predictions are made, by K members eroded at the plan's kinds of sites and strengths and
then fused, and any preprocessing; it attacks its own surrogates through the same defence, hardened
ones if it has some. Neither knows the weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from deepfusion_toolkit import attacks
from deepfusion_toolkit.attacks.surrogates import STRENGTH
from deepfusion_toolkit.models import Classifier, smallest_side
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.surgery import ErodedModel
from deepfusion_toolkit.threats.case import Attack, Case
from deepfusion_toolkit.threats.network import FusedNetwork, defended_like, seed_of

BANK = 16
"""Images that Admix and mix-up draw from."""


class Surrogates:
    """Models of an attacker, prepared once for all epsilons.

    Attributes:
        models: as they were given.
    """

    def __init__(self, models: Sequence[Classifier], plan: Plan) -> None:
        self.models, self.plan = models, plan
        self._prepared: dict[tuple[object, ...], list[ErodedModel]] = {}

    def prepared(self, settings: attacks.Settings) -> list[ErodedModel]:
        """Eroded, tapped and folded as an attack asks."""
        asked = (settings.erosion, settings.kinds, settings.residual, settings.mixup, settings.tap)
        key = (*asked, settings.taps_features)
        if key not in self._prepared:
            self._prepared[key] = attacks.prepare(self.models, settings)
        return self._prepared[key]

    def behind(self) -> list[ErodedModel]:
        """Each behind a defence like the plan's."""
        if () not in self._prepared:
            members = self.plan.members
            self._prepared[()] = [
                FusedNetwork(defended_like(self.plan, model), members) for model in self.models
            ]
        return self._prepared[()]


def oblivious(case: Case, surrogates: Surrogates, eps: float) -> Iterator[Attack]:
    """Attacks on plain surrogates, deep fusion unless others are named.

    Raises:
        UsageError: fewer passes than an attack needs for one step.
    """
    for name in case.settings.attack:
        settings = _settings(case, name, surrogates, eps, "transfer")
        yield _attack(case, "transfer", name, settings, surrogates)


def aware(case: Case, surrogates: Surrogates, eps: float) -> Iterator[Attack]:
    """Attacks on surrogates behind the same defence; those that look at a layer also eroded only.

    Raises:
        UsageError: see ``oblivious``.
        ModelError: a surrogate has nothing to erode.
    """
    plan = surrogates.plan
    for name in case.settings.attack:
        settings = _settings(case, name, surrogates, eps, "transfer-aware")
        if settings.method != "fia":  # which is nothing without a layer to look at
            through = replace(settings, erosion=1.0, feature_weight=0.0, residual=1.0, mixup=0.0)
            title = f"{name} through the same defence"
            yield _attack(case, "transfer-aware", title, through, surrogates, behind=True)
        if settings.taps_features:
            kinds = tuple(sorted({site.kind for site in plan.sites}))
            eroded = replace(settings, erosion=_relative(plan), kinds=kinds)
            title = f"{name} with the plan's erosion"
            yield _attack(case, "transfer-aware", title, eroded, surrogates)


def _relative(plan: Plan) -> float:
    """The plan's strength in units of the attack's published one, as far as that goes."""
    return max(0.1, min(4.0, max(site.strength / STRENGTH[site.kind] for site in plan.sites)))


def _settings(
    case: Case, name: str, surrogates: Surrogates, eps: float, threat: str
) -> attacks.Settings:
    count, passes = len(surrogates.models), case.settings.passes
    return attacks.settings_for(
        name,
        passes=10 * count if passes is None else passes,
        surrogates=count,
        eps=eps,
        seed=seed_of(threat, case.settings.seed),
        side=smallest_side(surrogates.models),
    )


def _attack(
    case: Case,
    threat: str,
    name: str,
    settings: attacks.Settings,
    surrogates: Surrogates,
    *,
    behind: bool = False,
) -> Attack:
    bank = case.images.only(range(min(BANK, len(case.images)))).inputs if settings.mixes else None

    def craft(images: Tensor, labels: Tensor, keys: Sequence[str]) -> Tensor:
        networks = surrogates.behind() if behind else surrogates.prepared(settings)
        return attacks.attack(networks, images, labels, keys, settings, bank).images

    members = surrogates.plan.members if behind else 1
    passes = attacks.cost(settings, len(surrogates.models)) * members
    return Attack(threat, name, settings.eps, {"passes": passes}, craft, blind=True)
