"""Factors for a seed are the same for ever: devices replay frames from logged seeds."""

import numpy as np
import pytest

from deepfusion_edge.erosion import MAX_SEED, Site, sample, stream_of, uniform

SITES = (
    Site("a", "skip", 2, 0.2),
    Site("b", "activation", 3, 0.5),
    Site("c", "norm", 3, 0.4),
)
KNOWN = [
    [0.8968102335929871, 0.9995436668395996, 0, 0, 0, 1, 0, 1],
    [1.0186036825180054, 0.8361225724220276, 2, 0, 2, 0, 0, 1],
]


def test_known_factors():
    factors = sample(SITES, seed=2026, stream=7, members=2)
    assert factors.dtype == np.float32
    assert factors.tolist() == KNOWN


def test_more_members_do_not_change_the_first():
    assert sample(SITES, seed=2026, stream=7, members=9)[:2].tolist() == KNOWN


@pytest.mark.parametrize(("seed", "stream"), [(2027, 7), (2026, 8)])
def test_another_seed_or_stream_gives_others(seed, stream):
    assert sample(SITES, seed=seed, stream=stream, members=2).tolist() != KNOWN


def test_known_uniform_numbers_at_both_ends():
    assert uniform(1, 0, 3).tolist() == [
        0.3035680343067586, 0.8487087496857769, 0.1561347780434731,
    ]  # fmt: skip
    assert uniform(MAX_SEED, 2**64 - 1, 2).tolist() == [0.55993455254258, 0.36208514457798524]


def test_known_stream():
    assert stream_of("camera", 1) == 2669975832315864622
    assert stream_of("camera", "1") != stream_of("camera", 1)
