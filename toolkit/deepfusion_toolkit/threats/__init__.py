"""The defence under attack, threat by threat: who knows what, what holds, what is noticed."""

from deepfusion_toolkit.threats.attackers import KNOWS, Attackers
from deepfusion_toolkit.threats.case import Attack, Case, Images
from deepfusion_toolkit.threats.detection import Detection, auroc, true_positive_rate
from deepfusion_toolkit.threats.outcome import Judged, Jury, Outcome
from deepfusion_toolkit.threats.result import Row, ThreatStudy
from deepfusion_toolkit.threats.settings import Settings
from deepfusion_toolkit.threats.study import Findings, study

__all__ = [
    "KNOWS",
    "Attack",
    "Attackers",
    "Case",
    "Detection",
    "Findings",
    "Images",
    "Judged",
    "Jury",
    "Outcome",
    "Row",
    "Settings",
    "ThreatStudy",
    "auroc",
    "study",
    "true_positive_rate",
]
