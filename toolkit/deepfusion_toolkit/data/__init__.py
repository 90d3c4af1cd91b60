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

__all__ = [
    "Dataset",
    "Item",
    "groups_by_size",
    "images_as_input",
    "load",
    "stack",
    "subset",
]
