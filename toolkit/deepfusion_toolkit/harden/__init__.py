"""Hardening: teach a detector, train the classes with erosion on, then search the plan.

After PubDef (ICLR 2024), which trains against black-box attackers on transfer examples from public
surrogates: here these teach what an attack looks like, and attacks on the model itself teach the
classes. Erosion makes the trained model fusable and measurable; alone it is nearly no defence.
"""

from deepfusion_toolkit.harden.result import Result
from deepfusion_toolkit.harden.run import harden
from deepfusion_toolkit.harden.settings import Settings

__all__ = ["Result", "Settings", "harden"]
