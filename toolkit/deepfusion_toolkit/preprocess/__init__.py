"""Optional preprocessing of the hybrid defence, inside the exported graph."""

from deepfusion_toolkit.preprocess.chain import Preprocessor
from deepfusion_toolkit.preprocess.stages import (
    FORMS,
    BitDepth,
    Jpeg,
    Median,
    ResizePad,
    Stage,
    parse,
    spell,
)

__all__ = [
    "FORMS",
    "BitDepth",
    "Jpeg",
    "Median",
    "Preprocessor",
    "ResizePad",
    "Stage",
    "parse",
    "spell",
]
