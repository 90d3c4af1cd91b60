"""Erosion factors [K, F] from a logged seed: pure numpy, the one sampler of device and toolkit.

An erosion model is the base model with some channels scaled at known places, its *sites*
(Ghost Networks, Li et al., AAAI 2020; RaPA, CVPR 2026). One row of factors is one member.

``skip``        ``1 + strength * (2u - 1)``, a scale on the shortcut of a residual sum
``activation``  0 with probability ``strength``, else ``1 / (1 - strength)``: channel dropout
``norm``        0 with probability ``strength``, else 1: a mask on the affine weight

The stream of random bits is Philox4x64-10 keyed by (seed, stream); only raw bits are taken from
numpy, because those are stable between its versions and the distributions built on them are not.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

Factors = npt.NDArray[np.float32]
Kind = Literal["skip", "activation", "norm"]

MAX_SEED = 2**53 - 1
"""Seeds travel in JSON, where integers above this one lose digits."""
MAX_BASES = 16
"""How many base models one ensemble may have; each runs all rows of factors."""


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place in the graph whose channels are scaled.

    Attributes:
        name: the graph node's name, unique within a plan.
        kind: which law the factors follow (see the module's table).
        channels: how many factors the site takes.
        strength: 0 (no erosion) to below 1.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    kind: Kind
    channels: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    strength: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]


def width(sites: Sequence[Site]) -> int:
    """Return F, the number of factors of one member."""
    return sum(site.channels for site in sites)


def stream_of(*parts: str | int) -> int:
    """Hash names and counters to a stream number in [0, 2**64), the same everywhere."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def uniform(seed: int, stream: int, count: int) -> npt.NDArray[np.float64]:
    """Draw ``count`` numbers in [0, 1) that depend on (seed, stream) alone."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be in [0, {MAX_SEED}], is {seed}")
    bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(count)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def identity(sites: Sequence[Site], members: int) -> Factors:
    """Return the factors [K, F] of members that are not eroded."""
    return np.ones((members, width(sites)), dtype=np.float32)


def sample(sites: Sequence[Site], *, seed: int, stream: int, members: int) -> Factors:
    """Draw factors [K, F] for K members.

    The first rows do not depend on K: members 1..4 of eight are the four of a draw of four, so a
    policy can add members to a frame without drawing the first ones again.
    """
    skips, strength, divisor = _columns(tuple(sites))
    u = uniform(seed, stream, members * len(strength)).reshape(members, -1)
    factors = np.where(skips, 1.0 + strength * (2.0 * u - 1.0), (u >= strength) / divisor)
    return factors.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _columns(
    sites: tuple[Site, ...],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lay out the laws by channel: is it a skip's, its strength, what a kept one is divided by."""
    channels = [site.channels for site in sites]
    skips = np.repeat([site.kind == "skip" for site in sites], channels)
    strength = np.repeat([site.strength for site in sites], channels)
    activations = np.repeat([site.kind == "activation" for site in sites], channels)
    return skips, strength, np.where(activations, 1.0 - strength, 1.0)
