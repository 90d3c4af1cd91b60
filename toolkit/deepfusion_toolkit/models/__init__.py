"""Any classifier in: RGB in [0, 1] of any height and width to logits, normalisation inside."""

from deepfusion_toolkit.models.classifier import Classifier, save
from deepfusion_toolkit.models.spec import load, require_same_classes, smallest_side

__all__ = ["Classifier", "load", "require_same_classes", "save", "smallest_side"]
