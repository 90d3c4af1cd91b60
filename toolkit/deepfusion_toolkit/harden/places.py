"""Where members may begin to differ: late parts of a network, with a shared prefix before them."""

from collections.abc import Sequence

from deepfusion_edge.erosion import Kind, Site
from deepfusion_toolkit.harden.detector import is_detectors
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import find_sites, share_before
from deepfusion_toolkit.surgery.graph import Traced, trace
from deepfusion_toolkit.surgery.sites import locate

BASE: dict[Kind, float] = {"skip": 0.4, "activation": 0.1, "norm": 0.1}
"""Strengths that members are trained with."""
SPLITS = (0.0, 0.4, 0.7)
"""Split points that are tried: how far from the least share of common work to all of it."""


def tails(model: Classifier, shared: float) -> list[tuple[Site, ...]]:
    """Late sites of a network at base strength, the longest part first.

    Args:
        model: what is to be eroded.
        shared: least share of multiply-adds before the first site, in [0, 1).

    Returns:
        At least one; each is the end of the one before.

    Raises:
        ModelError: the network has nothing to erode.
    """
    traced = trace(model.core, model.size)
    found = find_sites(traced, ("skip", "activation"), BASE)
    ends = [found[n:] for n in range(len(found))]
    behind = [_layers_behind(traced, end) for end in ends]
    heard = [end for end, layers in zip(ends, behind, strict=True) if layers > 1]
    chosen = _late(traced, heard, shared)
    if not chosen and is_detectors(traced):  # whose features do not change: only classes do
        chosen = _late(traced, [e for e, n in zip(ends, behind, strict=True) if n > 0], shared)
    return chosen or (heard or ends)[-1:]


def _late(
    traced: Traced, ends: Sequence[tuple[Site, ...]], shared: float
) -> list[tuple[Site, ...]]:
    """The longest of these ends at each of the split points; none where none shares enough."""
    before = [share_before(traced, end) for end in ends]
    chosen = []
    for split in SPLITS:
        least = shared + (1 - shared) * split
        fitting = [end for end, share in zip(ends, before, strict=True) if share >= least]
        if fitting and fitting[0] not in chosen:
            chosen.append(fitting[0])
    return chosen


def _layers_behind(traced: Traced, end: Sequence[Site]) -> int:
    """How many weighted layers of the classifier are behind the first of these sites that has any.

    Dropout with only the last one behind it changes every image's features by the same relative
    variance, so its members say nothing of an image, unless a detector does.
    """
    apart = is_detectors(traced)
    joined = traced.inside.index(traced.logits) if apart else None
    for found in locate(traced, end):
        place = 1 << traced.inside.index(found.node)
        if not place & apart:
            return sum(
                traced.weighted >> at & 1 and at != joined and traced.ancestors[node] & place > 0
                for at, node in enumerate(traced.inside)
            )
    return 0
