"""Pixels to what a page can show: enlarged PNG as data, and the picture of a perturbation."""

import base64
import io

import numpy as np
from PIL import Image

from deepfusion_edge.image import Pixels

SHOWN = 192
"""Small images are enlarged by a whole number to about this many pixels, unsmoothed."""

LARGEST = 448
"""Larger images are reduced to this, so that a page of photographs stays mailable."""

_GREY = 128


def perturbation(clean: Pixels, attacked: Pixels, magnify: float) -> Pixels:
    """Show the difference of two images, magnified, around middle grey.

    Args:
        clean: uint8 [H, W, 3].
        attacked: uint8 [H, W, 3].
        magnify: factor on the difference, above 0; what leaves [0, 255] is cut off.

    Returns:
        uint8 [H, W, 3]; 128 wherever the two are equal.

    Raises:
        ValueError: the shapes differ or the factor is not above 0.
    """
    if clean.shape != attacked.shape:
        raise ValueError(f"images of shapes {clean.shape} and {attacked.shape} have no difference")
    if not magnify > 0:
        raise ValueError(f"magnify must be above 0, is {magnify}")
    difference = attacked.astype(np.float64) - clean
    return np.clip(np.rint(_GREY + magnify * difference), 0, 255).astype(np.uint8)


def data_uri(pixels: Pixels) -> str:
    """Encode uint8 [H, W, 3] as a ``data:image/png`` address, enlarged or reduced for a page."""
    image = Image.fromarray(pixels)
    longest = max(image.size)
    factor = SHOWN // longest
    if factor > 1:
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    elif longest > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
