"""Attacks: one function a file, one signature; the libraries' need the extra ``baselines``."""

from deepfusion_toolkit.attacks.auto_attack import auto_attack
from deepfusion_toolkit.attacks.carlini_wagner import carlini_wagner_l2, carlini_wagner_linf
from deepfusion_toolkit.attacks.deep_fusion import Settings, deep_fusion
from deepfusion_toolkit.attacks.projections import quantise

__all__ = [
    "Settings",
    "auto_attack",
    "carlini_wagner_l2",
    "carlini_wagner_linf",
    "deep_fusion",
    "quantise",
]
