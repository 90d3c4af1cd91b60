"""What each threat knows, what attackers bring, and what decides about every row."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch

from deepfusion_toolkit import __version__
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Plan, fingerprint
from deepfusion_toolkit.threats.case import Images
from deepfusion_toolkit.threats.settings import Settings

KNOWS = {
    "transfer": "The task, its classes, public models. Nothing of the defence; it never asks.",
    "transfer-aware": "Also that K members, eroded at the plan's kinds of sites and strengths, are "
    "fused, and any preprocessing: it attacks its own surrogates behind the same defence. Not the "
    "weights.",
    "white-box": "Weights, plan and thresholds, but not the factors of a frame: it averages over "
    "draws of its own. The fixed draw: the factors as well.",
    "query": "The fused probabilities of every query, each with fresh factors. Nothing else.",
}


@dataclass(frozen=True)
class Attackers:
    """What attackers bring.

    Attributes:
        surrogates: public models.
        hardened: models hardened like the target, for the attacker who knows the defence; without
            any it takes the surrogates.
        sets: attacked sets by name: their images and the originals' numbers among the clean ones.
        ensemble: plain models that are fused with the target, for the ablation.
        undefended: the target before hardening: shows whether the attacks are strong enough.
    """

    surrogates: Sequence[Classifier] = ()
    hardened: Sequence[Classifier] = ()
    sets: Sequence[tuple[str, float, Images, Sequence[int]]] = ()
    ensemble: Sequence[Classifier] = ()
    undefended: Classifier | None = None


def identity_of(
    plan: Plan, clean: Images, images: Images, attackers: Attackers, settings: Settings
) -> str:
    """Hash what decides about every row; what decides about one is in its key."""
    text = hashlib.sha256(msgspec.json.encode(plan))
    text.update(clean.pixels.contiguous().numpy().tobytes())
    models = [*attackers.surrogates, *attackers.hardened, *attackers.ensemble]
    if attackers.undefended is not None:
        models.append(attackers.undefended)
    rest = (
        (__version__, str(torch.__version__), settings.seed, settings.redraws, settings.batch),
        (clean.labels, clean.keys, images.keys),
        [fingerprint(model.core) for model in models],
        [len(part) for part in (attackers.surrogates, attackers.hardened, attackers.ensemble)],
    )
    text.update(msgspec.json.encode(rest))
    return text.hexdigest()
