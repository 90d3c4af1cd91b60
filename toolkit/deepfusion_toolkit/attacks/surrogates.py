"""Surrogates as attacks use them: eroded where it helps, tapped, frozen, folded."""

from collections.abc import Collection, Sequence

from deepfusion_edge.erosion import Kind, Site
from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.attacks import compiled
from deepfusion_toolkit.attacks.settings import Settings
from deepfusion_toolkit.features import choose_tap
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import ErodedModel, erode, find_sites
from deepfusion_toolkit.surgery.damp import damp
from deepfusion_toolkit.surgery.fold import fold
from deepfusion_toolkit.surgery.graph import Traced, trace
from deepfusion_toolkit.surgery.mix import mix
from deepfusion_toolkit.surgery.sites import find

STRENGTH: dict[Kind, float] = {"skip": 0.2, "activation": 0.02, "norm": 0.02}
STRONGEST = 0.9


def prepare(models: Sequence[Classifier], settings: Settings) -> list[ErodedModel]:
    """Erode, tap, damp and fold surrogates as an attack's settings ask.

    Raises:
        UsageError: a tap names a model that is none of these.
        ModelError: a model cannot be traced, has nothing to erode, or no layer of a tap's name.
    """
    names = [model.name for model in models]
    for tap in settings.tap:
        if (owner := tap.rpartition(":")[0]) and owner not in names:
            raise UsageError(
                f"tap {tap} names '{owner}', which is no surrogate",
                f"surrogates are {', '.join(names)}",
            )
    prepared = []
    for model in models:
        eroded = erode(model, _sites(model, settings), _taps(model, settings))
        if settings.residual < 1:
            damp(eroded.graph_module, settings.residual)
        fold(eroded.graph_module)
        if settings.mixup:
            mix(eroded.graph_module)
        if settings.compile:
            eroded.graph_module.compile(backend=compiled.BACKEND)
        prepared.append(eroded)
    return prepared


def _sites(model: Classifier, settings: Settings) -> tuple[Site, ...]:
    """Sites of the wanted kinds; a model that has none of them gets its activations eroded."""
    traced = trace(model.core, model.size)
    available = {f.kind for f in find(traced)}
    if not settings.erosion:  # one site costs least: all its factors will be ones
        return find_sites(traced, available, _none(traced))[-1:]
    usable: Collection[Kind] = set(settings.kinds) & available or {"activation"}
    strength = {k: min(STRONGEST, v * settings.erosion) for k, v in STRENGTH.items()}
    return find_sites(traced, usable, strength)


def _none(traced: Traced) -> dict[Kind, float]:
    return {f.kind: 0.0 for f in find(traced)}


def _taps(model: Classifier, settings: Settings) -> tuple[str, ...]:
    if not settings.taps_features:
        return ()
    named = dict(tap.rpartition(":")[::2] for tap in settings.tap)
    return (named.get(model.name) or named.get("") or choose_tap(model),)
