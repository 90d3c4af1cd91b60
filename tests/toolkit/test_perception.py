"""SSIM against its formula and its known values; distances against numbers made by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.errors import InputError
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.perception import distance, ssim
from tests.toolkit import attack_nets as nets


def noise(side=24, seed=0):
    return np.random.default_rng(seed).integers(60, 190, (side, side, 3)).astype(np.uint8)


def moved(pixels, eps, seed=1):
    signs = np.random.default_rng(seed).choice([-1, 1], pixels.shape)
    return (pixels + eps * signs).astype(np.uint8)


def test_the_same_image_has_one():
    assert ssim(noise(), noise()) == 1.0


def test_flat_images_follow_the_formula():
    # without variance only the luminance term is left: (2 a b + C1) / (a^2 + b^2 + C1)
    a, b, c1 = 100.0, 140.0, (0.01 * 255) ** 2
    flat = [np.full((16, 16, 3), v, dtype=np.uint8) for v in (a, b)]
    assert ssim(*flat) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-9)


def test_a_larger_budget_is_seen_more():
    values = [ssim(noise(), moved(noise(), eps)) for eps in (0, 2, 4, 8, 16, 32)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(11, 20))
def test_it_is_symmetric_and_within_its_range(seed, eps, side):
    one = noise(side, seed)
    two = moved(one, eps, seed)
    assert -1 <= ssim(one, two) <= 1
    assert ssim(one, two) == pytest.approx(ssim(two, one), abs=1e-9)


def test_small_images_have_none_and_other_shapes_are_refused():
    assert ssim(noise(10), noise(10)) is None
    assert ssim(noise(11), noise(11)) == 1.0
    with pytest.raises(ValueError, match="not comparable"):
        ssim(noise(12), noise(13))


def two(root, *images):
    for number, pixels in enumerate(images):
        nets.picture(root / "a" / f"{number}.png", pixels)
    return folder.load(root)


def test_distances_are_means_over_images(tmp_path):
    grey = np.full((16, 16, 3), 100, dtype=np.uint8)
    dot = grey.copy()
    dot[0, 0] = (106, 92, 100)
    far = distance(two(tmp_path / "set", grey, dot), two(tmp_path / "clean", grey, grey))
    assert far.linf == pytest.approx((0 + 8) / 2)
    assert far.l2 == pytest.approx((0 + np.sqrt(6**2 + 8**2) / 255) / 2)
    assert far.ssim == pytest.approx((1 + ssim(grey, dot)) / 2)


def test_one_small_image_leaves_the_set_without_ssim(tmp_path):
    images = noise(), noise(8)
    far = distance(two(tmp_path / "set", *images), two(tmp_path / "clean", *images))
    assert far.ssim is None
    assert (far.linf, far.l2) == (0, 0)


def test_an_image_of_another_size_is_named(tmp_path):
    with pytest.raises(InputError, match=r"set/a/0\.png is 12x12 pixels, its original 24x24"):
        distance(two(tmp_path / "set", noise(12)), two(tmp_path / "clean", noise()))
