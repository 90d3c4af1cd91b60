"""How far an attacked image is from its original, as a person would see it and as numbers."""

import msgspec
import numpy as np

from deepfusion_edge.errors import InputError
from deepfusion_edge.image import Pixels
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.report.terminal import progress

SMALLEST = 11
"""Pixels a side that the window of `ssim` needs."""


class Distance(msgspec.Struct, frozen=True):
    """Means over the images of a set, each against its original.

    Attributes:
        ssim: structural similarity, at most 1 (the same image); None if an image has fewer than
            11 pixels a side.
        linf: the largest change of a channel value, in units of 1/255.
        l2: Euclidean norm of the change of all channel values, where 1 is the full range of one.
    """

    ssim: float | None
    linf: float
    l2: float


def ssim(clean: Pixels, attacked: Pixels) -> float | None:
    """Mean structural similarity with the paper's Gaussian window (Wang et al., IEEE TIP, 2004).

    Args:
        clean: uint8 [H, W, 3].
        attacked: uint8 [H, W, 3].

    Returns:
        A value in [-1, 1], the mean over the three channels; None below 11 pixels a side.

    Raises:
        ValueError: the shapes differ.
    """
    if clean.shape != attacked.shape:
        raise ValueError(f"images of shapes {clean.shape} and {attacked.shape} are not comparable")
    if min(clean.shape[:2]) < SMALLEST:
        return None
    from skimage.metrics import structural_similarity

    found = structural_similarity(
        clean,
        attacked,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(found)


def distance(attacked: Dataset, clean: Dataset) -> Distance:
    """Compare every image of a set with its original, as saved.

    Args:
        attacked: the set.
        clean: its originals, in the same order.

    Raises:
        InputError: an image cannot be read, or has another size than its original.
    """
    seen: list[float | None] = []
    linf, l2 = [], []
    with progress(f"comparing {attacked.root.name} with its originals", len(attacked)) as advance:
        for item, original in zip(attacked.items, clean.items, strict=True):
            before, after = clean.read(original), attacked.read(item)
            if before.shape != after.shape:
                raise InputError(
                    f"{attacked.root / item.file} is {after.shape[1]}x{after.shape[0]} pixels, "
                    f"its original {before.shape[1]}x{before.shape[0]}",
                    "give the folder that the set was crafted from as --clean",
                )
            change = after.astype(np.float64) - before
            linf.append(np.abs(change).max())
            l2.append(np.linalg.norm(change / 255))
            seen.append(ssim(before, after))
            advance(1)
    values = [value for value in seen if value is not None]
    whole = len(values) == len(seen)
    return Distance(
        ssim=float(np.mean(values)) if whole else None,
        linf=float(np.mean(linf)),
        l2=float(np.mean(l2)),
    )
