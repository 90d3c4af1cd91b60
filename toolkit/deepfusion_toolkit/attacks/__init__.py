"""Attacks: one function a file, one signature."""

from deepfusion_toolkit.attacks.deep_fusion import Settings, deep_fusion
from deepfusion_toolkit.attacks.projections import quantise

__all__ = ["Settings", "deep_fusion", "quantise"]
