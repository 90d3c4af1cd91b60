"""Hardening: train with erosion on and transfer examples in, then search the plan.

The lesson of PubDef (ICLR 2024): against black-box attackers, train on transfer examples from
public surrogates. Erosion makes the trained model fusable and measurable; alone it is nearly no
defence.
"""

from deepfusion_toolkit.harden.result import Result
from deepfusion_toolkit.harden.run import harden
from deepfusion_toolkit.harden.settings import Settings

__all__ = ["Result", "Settings", "harden"]
