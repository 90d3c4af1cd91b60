"""What must hold for erosion by surgery, measured on one network.

All-ones factors give the original output; K members together equal K members one by one; every
factor changes the output. The first two are differences of probabilities, the third a count.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepfusion_edge.erosion import Kind, Site
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import DEFAULT_STRENGTH, ErodedModel, erode, find_sites
from deepfusion_toolkit.surgery.graph import trace
from deepfusion_toolkit.surgery.place import place_of
from deepfusion_toolkit.surgery.sites import locate

KINDS: tuple[Kind, ...] = ("skip", "activation", "norm")
TOLERANCE = 1e-4
"""Of probabilities: two ways of summing in float32, through a hundred layers."""
_MEMBERS = 5


class Laws(NamedTuple):
    """How far a network is from the laws.

    Attributes:
        sites: how many of each kind were found and eroded, in the order of ``KINDS``.
        unchanged: all ones against the original: the largest difference of probabilities.
        together: members together against one by one, likewise.
        silent: names of the sites with a factor that changes nothing.
        waiting: how many sites are multiplied behind a pooling, where the map is smaller.
    """

    sites: tuple[int, int, int]
    unchanged: float
    together: float
    silent: tuple[str, ...]
    waiting: int

    @property
    def hold(self) -> bool:
        """Whether the network can be used: "not >" would let NaN pass."""
        return self.unchanged <= TOLERANCE and self.together <= TOLERANCE and not self.silent


def all_sites(model: Classifier) -> tuple[Site, ...]:
    """Every site of every kind, in graph order.

    Raises:
        ModelError: the network cannot be traced, or has none.
    """
    return find_sites(trace(model.core, model.size), KINDS, DEFAULT_STRENGTH)


def examine(model: Classifier, seen: Tensor) -> Laws:
    """Erode a classifier everywhere and hold it against the laws.

    Args:
        model: with weights under which every channel is felt, see ``enliven``.
        seen: images [N, 3, *size].

    Raises:
        ModelError: the network cannot be traced, or has no site.
    """
    sites = all_sites(model)
    eroded = erode(model, sites)
    ones = torch.ones(len(seen), eroded.width)
    draws = torch.Generator().manual_seed(7)
    factors = 1 + 0.4 * (torch.rand(_MEMBERS, eroded.width, generator=draws) - 0.5)
    image = seen[:1]
    with torch.no_grad():
        plain = model(seen)
        unchanged = max(
            _apart(eroded(seen, ones).logits, plain),
            _apart(eroded(image, ones[:3]).logits, plain[:1].expand(3, -1)),
        )
        members = eroded(image, factors).logits
        together = max(
            _apart(members, torch.cat([eroded(image, row[None]).logits for row in factors])),
            _apart(members, eroded(image.expand(_MEMBERS, -1, -1, -1), factors).logits),
        )
    counts = [sum(site.kind == kind for site in sites) for kind in KINDS]
    silent = tuple(silent_sites(eroded, sites, seen))
    traced = trace(model.core, model.size)
    waiting = sum(place_of(traced, each) is not each.node for each in locate(traced, sites))
    return Laws((counts[0], counts[1], counts[2]), unchanged, together, silent, waiting)


def silent_sites(eroded: ErodedModel, sites: Sequence[Site], seen: Tensor) -> list[str]:
    """Name the sites with a factor whose gradient is zero for all images and two directions."""
    factors = torch.ones(len(seen), eroded.width, requires_grad=True)
    logits = eroded(seen, factors).logits
    felt = torch.zeros(eroded.width)
    for seed in range(2):
        direction = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(seed))
        (moved,) = torch.autograd.grad((logits @ direction).sum(), factors, retain_graph=True)
        felt = torch.maximum(felt, moved.abs().amax(0))
    own = felt.split([site.channels for site in sites])
    return [site.name for site, each in zip(sites, own, strict=True) if not bool((each > 0).all())]


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.softmax(1) - b.softmax(1)).abs().max())
