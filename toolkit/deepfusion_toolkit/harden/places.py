"""Where members may begin to differ: late parts of a network, with a shared prefix before them."""

from deepfusion_edge.erosion import Kind, Site
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import find_sites, share_before
from deepfusion_toolkit.surgery.graph import Traced, trace
from deepfusion_toolkit.surgery.sites import locate, penultimate

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
    heard = [end for end in ends if _heard(traced, end[0])] or ends[-1:]
    before = [share_before(traced, end) for end in heard]
    chosen = []
    for split in SPLITS:
        least = shared + (1 - shared) * split
        fitting = [end for end, share in zip(heard, before, strict=True) if share >= least]
        if fitting and fitting[0] not in chosen:
            chosen.append(fitting[0])
    return chosen or [heard[-1]]


def _heard(traced: Traced, site: Site) -> bool:
    """Whether a weighted layer stands between a site and the features that are scored.

    Without one, dropout changes every image's features by the same relative variance.
    """
    (found,) = locate(traced, [site])
    place = 1 << traced.inside.index(found.node)
    above = traced.ancestors[penultimate(traced)]
    return any(
        above >> at & 1 and traced.weighted >> at & 1 and traced.ancestors[node] & place
        for at, node in enumerate(traced.inside)
    )
