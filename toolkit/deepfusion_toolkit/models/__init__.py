"""Any classifier in: RGB in [0, 1] of any height and width to logits, normalisation inside."""

from deepfusion_toolkit.models.classifier import Classifier, save
from deepfusion_toolkit.models.resize import resized
from deepfusion_toolkit.models.spec import (
    largest_size,
    load,
    load_all,
    require_same_classes,
    smallest_side,
)

__all__ = [
    "Classifier",
    "largest_size",
    "load",
    "load_all",
    "require_same_classes",
    "resized",
    "save",
    "smallest_side",
]
