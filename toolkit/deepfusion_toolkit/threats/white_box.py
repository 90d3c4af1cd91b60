"""The attacker who knows everything but the draw: PGD and APGD through the whole fused output.

Gradients are averaged over draws of the factors (expectation over transformation, EoT; Athalye et
al., ICML 2018). The attacker climbs a ladder, more draws on each rung, until a rung no longer takes
robust accuracy; every attack goes for what those before it left standing. PGD: Madry et al., ICLR
2018; APGD, with cross-entropy and the DLR loss: Croce and Hein, ICML 2020, by pyautoattack.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from torch import Tensor

from deepfusion_toolkit import attacks
from deepfusion_toolkit.attacks import battery
from deepfusion_toolkit.attacks.one_by_one import one_by_one
from deepfusion_toolkit.threats.case import Attack, Case
from deepfusion_toolkit.threats.network import Fresh, FusedNetwork, seed_of
from deepfusion_toolkit.threats.outcome import Outcome, robust
from deepfusion_toolkit.threats.settings import Settings

LEAST_FOR_DLR = 3
WEIGHTS = (0.3, 3.0)
"""Of the scores' logarithms against the cross-entropy, for an attacker who evades detection."""


class Rung(NamedTuple):
    """Draws a gradient is averaged over, steps, and how often each attack begins anew."""

    eot: int
    steps: int
    restarts: int


class Point(msgspec.Struct, frozen=True):
    """What one attack of a rung left, mean accuracy over redraws in [0, 1]."""

    eps: float
    eot: int
    steps: int
    restarts: int
    attack: str
    robust: float


class Climbed(NamedTuple):
    """The ladder's end: the worst outcome, every point, and whether the last rung took nothing."""

    outcome: Outcome
    points: list[Point]
    flat: bool
    last: Rung


def ladder(settings: Settings) -> list[Rung]:
    """All rungs: the draws asked for, then ``raises`` times twice of everything."""
    rungs = [Rung(eot, settings.steps, 1) for eot in settings.eot]
    for _ in range(settings.raises):
        eot, steps, restarts = rungs[-1]
        rungs.append(Rung(2 * eot, 2 * steps, 2 * restarts))
    return rungs


def climb(case: Case, eps: float) -> Climbed:
    """Attack rung by rung until the robust accuracy is flat or the ladder ends.

    Raises:
        ModelError: pyautoattack is not installed.
    """
    outcome: Outcome | None = None
    points: list[Point] = []
    before = 1.0
    rungs = ladder(case.settings)
    for number, rung in enumerate(rungs):
        for attack in _of_rung(case, rung, eps):
            outcome = case.attacked(attack, outcome)
            points.append(Point(eps, *rung, attack.name, robust(outcome, case.images.labels)))
        now = points[-1].robust
        flat = now == 0 or (number > 0 and before - now < case.settings.tolerance)
        if outcome is not None and (flat or number == len(rungs) - 1):
            return Climbed(outcome, points, flat, rung)
        before = now
    raise AssertionError("a ladder has a rung")


def _of_rung(case: Case, rung: Rung, eps: float) -> Iterator[Attack]:
    losses = ("ce", "dlr") if case.plain.classes >= LEAST_FOR_DLR else ("ce",)
    for restart in range(rung.restarts):
        yield pgd(case, rung, eps, restart)
        for loss in losses:
            yield apgd(case, rung, eps, loss, restart)


def pgd(case: Case, rung: Rung, eps: float, restart: int = 0, *, evading: float = 0.0) -> Attack:
    """PGD in the one attack loop, with a random start; ``evading`` also lowers the scores."""
    members = case.jury.members or case.jury.plan.members
    network = FusedNetwork(case.jury.defended, members, evading=evading)
    settings = attacks.Settings(
        eps=eps,
        steps=rung.steps,
        step_size=min(eps, 2.5 * eps / rung.steps),
        decay=0.0,
        start=True,
        samples=rung.eot,
        erosion=1.0,
        feature_weight=0.0,
        loss="logit",  # of log probabilities: the cross-entropy itself
        seed=seed_of(f"pgd {restart}", case.settings.seed),
    )

    def craft(images: Tensor, labels: Tensor, keys: Sequence[str]) -> Tensor:
        return attacks.attack([network], images, labels, keys, settings).images

    effort = _effort(rung, restart) | ({"evading": evading} if evading else {})
    name = "PGD that lowers the scores" if evading else "PGD"
    return Attack("white-box", name, eps, effort, craft, evading=bool(evading))


def apgd(case: Case, rung: Rung, eps: float, loss: str, restart: int = 0) -> Attack:
    """APGD of the library; an image alone, so that its draws are its own."""
    members = case.jury.members or case.jury.plan.members
    seed = seed_of(f"apgd {restart}", case.settings.seed)
    network = Fresh(case.jury.defended, members, seed=seed)

    def one(image: Tensor, label: Tensor, own: int) -> Tensor:
        network.begin(str(own))
        return battery.apgd(
            network, image, label, eps, loss=loss, steps=rung.steps, eot=rung.eot, seed=own
        )

    def craft(images: Tensor, labels: Tensor, keys: Sequence[str]) -> Tensor:
        return one_by_one(
            f"apgd-{loss}", one, images, labels, keys, attacks.Settings(eps=eps, seed=seed)
        )

    return Attack("white-box", f"APGD-{loss.upper()}", eps, _effort(rung, restart), craft)


def evade(case: Case, eps: float, rung: Rung) -> Outcome:
    """Be wrong *and accepted*: the scores count in the loss, at each weight; the worst is kept."""
    outcome: Outcome | None = None
    for weight in WEIGHTS:
        outcome = case.attacked(pgd(case, rung, eps, evading=weight), outcome)
    assert outcome is not None  # noqa: S101 - there are weights
    return outcome


def _effort(rung: Rung, restart: int) -> dict[str, int | float | str]:
    return {"eot": rung.eot, "steps": rung.steps, "restart": restart}
