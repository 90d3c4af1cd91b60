"""Attacks by name at a budget of passes: deep fusion, and its rivals at their published settings.

A budget counts passes per image over all surrogates. The published ten steps are kept where the
budget allows, and what is left goes into the method's own inner loop, up to its published size.
"""

from collections.abc import Callable
from dataclasses import replace

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.attacks.budget import deep_fusion
from deepfusion_toolkit.attacks.settings import Settings
from deepfusion_toolkit.names import ATTACKS, DEEP_FUSION

PUBLISHED_STEPS = 10
PLAIN = Settings(erosion=0.0, feature_weight=0.0)

Maker = Callable[[int, Settings], Settings]
"""(rounds: passes for each surrogate, plain settings) -> settings."""


def _once(_rounds: int, plain: Settings) -> Settings:
    return replace(plain, steps=1, decay=0.0, step_size=plain.eps)


def _pgd(rounds: int, plain: Settings) -> Settings:
    size = min(plain.eps, 2.5 * plain.eps / rounds)
    return replace(plain, steps=rounds, decay=0.0, start=True, step_size=size)


def _momentum(**parts: object) -> Maker:
    return lambda rounds, plain: replace(plain, steps=rounds, **parts)  # type: ignore[arg-type]


def _copies(most: int, *transforms: str) -> Maker:
    def make(rounds: int, plain: Settings) -> Settings:
        copies = _share(rounds, most)
        return replace(plain, steps=rounds // copies, samples=copies, transforms=transforms)

    return make


def _vmi(rounds: int, plain: Settings) -> Settings:
    around = max(1, _share(rounds, 21) - 1)
    return _inner(plain, "vmi", rounds, around, around + 1, radius=1.5)


def _pgn(rounds: int, plain: Settings) -> Settings:
    around = max(1, _share(rounds, 40) // 2)
    return _inner(plain, "pgn", rounds, around, 2 * around, radius=3.0)


def _svre(rounds: int, plain: Settings) -> Settings:
    inner = max(1, _share(rounds, 6) - 2)
    return _inner(plain, "svre", rounds, inner, inner + 2)


def _smer(rounds: int, plain: Settings) -> Settings:
    inner = _share(rounds, 4)
    return _inner(plain, "smer", rounds, inner, inner)


def _fia(rounds: int, plain: Settings) -> Settings:
    masks = max(1, min(30, rounds // 3))
    return replace(plain, method="fia", samples=masks, steps=max(1, rounds - masks))


def _logit(rounds: int, plain: Settings) -> Settings:
    return replace(
        plain,
        steps=rounds,
        loss="logit",
        transforms=("di",),
        kernel=5,
        step_size=min(2.0, plain.eps),
    )


def _cw(rounds: int, plain: Settings) -> Settings:
    searches = _share(rounds // 2, 10)
    return replace(plain, method="cw", samples=searches, steps=max(1, rounds // 2 // searches))


def _share(rounds: int, most: int) -> int:
    """Passes of one step: as many as leave the published number of steps."""
    return max(1, min(most, rounds // PUBLISHED_STEPS))


def _inner(
    plain: Settings, method: str, rounds: int, samples: int, cost: int, radius: float = 0.0
) -> Settings:
    steps = max(1, rounds // cost)
    return replace(plain, method=method, steps=steps, samples=samples, radius=radius)  # type: ignore[arg-type]


BASELINES: dict[str, Maker] = {
    "fgsm": _once,
    "pgd": _pgd,
    "mi": _momentum(),
    "ni": _momentum(nesterov=True),
    "di": _momentum(transforms=("di",)),
    "ti": _momentum(kernel=7),
    "si": _copies(5, "si"),
    "admix": _copies(15, "admix", "si"),
    "bsr": _copies(20, "bsr"),
    "vmi": _vmi,
    "pgn": _pgn,
    "svre": _svre,
    "smer": _smer,
    "fia": _fia,
    "logit": _logit,
    "cw": _cw,
}
"""``mi`` on several surrogates is the baseline ENS: momentum on the mean of their logits."""


def settings_for(
    name: str,
    *,
    passes: int,
    surrogates: int,
    eps: float = 16.0,
    targeted: bool = False,
    seed: int = 0,
    side: int = 224,
) -> Settings:
    """Choose an attack's settings for a budget.

    Args:
        name: of ``names.ATTACKS``.
        passes: per image, all surrogates counted; never exceeded.
        surrogates: how many there are, at least 1.
        eps: in units of 1/255.
        targeted: towards the given class.
        seed: of every draw.
        side: shorter side of the surrogates' smallest input in pixels; deep fusion looks at it.

    Raises:
        UsageError: an unknown name, or fewer passes than the surrogates need for one step.
    """
    if name not in ATTACKS:
        raise UsageError(f"there is no attack '{name}'", f"give one of {', '.join(ATTACKS)}")
    if passes < surrogates:
        raise UsageError(
            f"{passes} passes are not one for each of {surrogates} surrogates", "raise --passes"
        )
    plain = replace(PLAIN, eps=eps, targeted=targeted, seed=seed)
    if name == DEEP_FUSION:
        return deep_fusion(passes, plain, side)
    made = BASELINES[name](passes // surrogates, plain)
    if cost(made, surrogates) > passes:
        raise UsageError(
            f"{name} needs {cost(made, surrogates)} passes for one step of {surrogates} surrogates,"
            f" the budget is {passes}",
            "raise --passes",
        )
    return made


def cost(settings: Settings, surrogates: int) -> int:
    """Passes per image that an attack with these settings makes; a test counts them."""
    group = settings.group if 0 < settings.group < surrogates else surrogates
    each = {
        "fusion": group * settings.samples,
        "vmi": surrogates * (1 + settings.samples),
        "pgn": surrogates * 2 * settings.samples,
        "svre": surrogates * (2 + settings.samples),
        "smer": surrogates * settings.samples,
        "fia": surrogates,
        "cw": surrogates * 2 * settings.samples,
    }[settings.method]
    once = surrogates * settings.samples if settings.method == "fia" else 0
    if settings.mixup:
        once += surrogates
    return settings.steps * each + once
