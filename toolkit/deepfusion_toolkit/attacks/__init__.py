"""Attacks: one loop, one signature; the libraries' need the extra ``baselines``."""

from deepfusion_toolkit.attacks.auto_attack import auto_attack
from deepfusion_toolkit.attacks.carlini_wagner import carlini_wagner_l2, carlini_wagner_linf
from deepfusion_toolkit.attacks.loop import Attacked, attack
from deepfusion_toolkit.attacks.methods import cost, settings_for
from deepfusion_toolkit.attacks.projections import quantise
from deepfusion_toolkit.attacks.settings import Settings
from deepfusion_toolkit.attacks.surrogates import prepare

__all__ = [
    "Attacked",
    "Settings",
    "attack",
    "auto_attack",
    "carlini_wagner_l2",
    "carlini_wagner_linf",
    "cost",
    "prepare",
    "quantise",
    "settings_for",
]
