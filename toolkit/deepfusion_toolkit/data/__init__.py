"""Labelled images: folders of them, and the generator that renders some."""

from deepfusion_toolkit.data.folder import (
    Dataset,
    Item,
    groups_by_size,
    images_as_input,
    load,
    stack,
    subset,
)
from deepfusion_toolkit.data.render import CLASSES, render

__all__ = [
    "CLASSES",
    "Dataset",
    "Item",
    "groups_by_size",
    "images_as_input",
    "load",
    "render",
    "stack",
    "subset",
]
