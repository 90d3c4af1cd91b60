"""Input transforms against slow references, pixel by pixel, on an image that is not square."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from deepfusion_edge.erosion import stream_of, uniform
from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.attacks import geometry, transforms
from deepfusion_toolkit.names import GEOMETRIC, TRANSFORMS

HEIGHT, WIDTH = 9, 14
NUMBERS = np.random.default_rng(5).random((6, 12)).astype(np.float32)
STILL = 0.5  # the uniform number of an angle of 0


def picture(height=HEIGHT, width=WIDTH, seed=0):
    return np.random.default_rng(seed).random((3, height, width)).astype(np.float32)


def sampled(image, *maps):
    """What the toolkit shows: maps are (function, numbers)."""
    grid = geometry.identity(1, *image.shape[1:])
    for change, numbers in maps:
        grid = change(grid, torch.as_tensor(numbers, dtype=torch.float32)[None])
    shown = functional.grid_sample(
        torch.from_numpy(image)[None], grid.stacked(), align_corners=False
    )
    return shown[0].numpy()


def at(image, y, x):
    """Bilinear value [3] at pixel coordinates, black outside."""
    height, width = image.shape[1:]
    top, left, total = math.floor(y), math.floor(x), np.zeros(3)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


def by_pixels(image, source):
    """An image whose pixel (i, j) shows ``source(i, j)``, coordinates or None for black."""
    shown = np.zeros_like(image)
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            found = source(i, j)
            if found is not None:
                shown[:, i, j] = at(image, *found)
    return shown


def shrunk(image, u):
    """DI: a smaller copy with its upper left corner somewhere."""
    height, width = image.shape[1:]
    size = 0.7 + 0.3 * u[0]
    left, top = (1 - size) * width * u[1], (1 - size) * height * u[2]
    return by_pixels(
        image, lambda i, j: ((i + 0.5 - top) / size - 0.5, (j + 0.5 - left) / size - 0.5)
    )


def rotated(image, u):
    """A turn about the centre, in pixels."""
    height, width = image.shape[1:]
    cos, sin = math.cos(0.42 * (2 * u[0] - 1)), math.sin(0.42 * (2 * u[0] - 1))
    y, x = (height - 1) / 2, (width - 1) / 2
    return by_pixels(
        image,
        lambda i, j: (
            y + cos * (i - y) - sin * (j - x),
            x + cos * (j - x) + sin * (i - y),
        ),
    )


def two_parts(length, u):
    """Where a side is cut, and which part comes first."""
    cut = round((0.1 + 0.8 * float(u[0])) * length)
    return [(0, cut), (cut, length)], (0, 1) if u[1] <= u[2] else (1, 0)


def inverse(position, length, u):
    """(part, where a pixel was before the parts were shuffled)."""
    parts, order = two_parts(length, u)
    begin = 0
    for which in order:
        start, end = parts[which]
        if position < begin + end - start:
            return which, position - begin + start
        begin += end - start
    raise AssertionError


def blocks(image, u):
    """BSR by following every pixel back."""
    if u[0] < 0.5:
        return blocks(image.swapaxes(1, 2), [1.0, *u[1:]]).swapaxes(1, 2)
    height, width = image.shape[1:]

    def source(i, j):
        which, row = inverse(i, height, u[1:4])
        own = u[4 + 4 * which : 8 + 4 * which]
        _, column = inverse(j, width, own[:3])
        start, end = two_parts(height, u[1:4])[0][which]
        angle = 0.42 * (2 * float(own[3]) - 1)
        dy, dx = row + 0.5 - (start + end) / 2, column + 0.5 - width / 2
        y = math.cos(angle) * dy - math.sin(angle) * dx
        x = math.cos(angle) * dx + math.sin(angle) * dy
        if abs(y) > (end - start) / 2 or abs(x) > width / 2:
            return None
        return y + (start + end) / 2 - 0.5, x + width / 2 - 0.5

    return by_pixels(image, source)


def sliced(image, u):
    """BSR without its turns: only slicing."""
    if u[0] < 0.5:
        return sliced(image.swapaxes(1, 2), [1.0, *u[1:]]).swapaxes(1, 2)
    parts, order = two_parts(image.shape[1], u[1:4])
    strips = []
    for which in order:
        strip = image[:, slice(*parts[which])]
        pieces, turn = two_parts(image.shape[2], u[4 + 4 * which : 7 + 4 * which])
        strips.append(np.concatenate([strip[:, :, slice(*pieces[p])] for p in turn], axis=2))
    return np.concatenate(strips, axis=1)


REFERENCES = {"di": shrunk, "turn": rotated, "bsr": blocks}
SHAPES = pytest.mark.parametrize("shape", [(9, 14), (14, 9), (10, 10)], ids=str)


def still(u):
    """The numbers of a BSR that turns nothing."""
    u = np.array(u)
    u[[7, 11]] = STILL
    return u


def test_the_maps_are_those_that_users_can_name():
    assert set(transforms.MAPS) == set(GEOMETRIC) == set(REFERENCES)
    assert set(TRANSFORMS) == {*GEOMETRIC, "si", "admix"}


@SHAPES
@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("row", range(len(NUMBERS)))
def test_a_map_is_its_reference(name, row, shape):
    change, count = transforms.MAPS[name]
    image, numbers = picture(*shape), NUMBERS[row, :count]
    found = sampled(image, (change, numbers))
    np.testing.assert_allclose(found, REFERENCES[name](image, numbers), atol=2e-5)
    assert not np.allclose(found, image, atol=0.1)


@SHAPES
@pytest.mark.parametrize("row", range(len(NUMBERS)))
def test_blocks_that_do_not_turn_are_slices(row, shape):
    image, numbers = picture(*shape), still(NUMBERS[row])
    found = sampled(image, (geometry.shuffle_rotate, numbers))
    np.testing.assert_allclose(found, sliced(image, numbers), atol=1e-5)
    assert sorted(found.round(3).ravel()) == sorted(image.round(3).ravel())  # nothing is lost


def test_a_quarter_of_a_circle_does_not_shear(monkeypatch):
    monkeypatch.setattr(geometry, "TURN", math.pi / 2)
    image = np.zeros((3, 9, 15), np.float32)
    image[:, 4, 5:10] = 1  # a bar across the centre stands up afterwards
    found = sampled(image, (geometry.turn, [1.0]))
    wanted = np.zeros_like(image)
    wanted[:, 2:7, 7] = 1
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_numbers_of_no_change_change_nothing():
    for change, numbers in (
        (geometry.resize_pad, [1.0, 0.3, 0.6]),
        (geometry.turn, [STILL]),
    ):
        np.testing.assert_allclose(sampled(picture(), (change, numbers)), picture(), atol=1e-5)


@pytest.mark.parametrize("rows", [(0, 1), (2, 3), (4, 0)])
def test_two_shuffles_at_once_are_one_after_the_other(rows):
    first, last = (still(NUMBERS[row]) for row in rows)
    both = sampled(picture(), (geometry.shuffle_rotate, last), (geometry.shuffle_rotate, first))
    np.testing.assert_allclose(both, sliced(sliced(picture(), first), last), atol=1e-4)


@pytest.mark.parametrize("row", range(len(NUMBERS)))
@pytest.mark.parametrize(
    ("outer", "numbers"), [(geometry.resize_pad, [0.0, 0.9, 0.2]), (geometry.turn, [0.95])]
)
def test_what_one_map_left_black_the_next_does_not_fill(outer, numbers, row):
    """The outer map's border is shown through the shuffle only where the shuffle has an image."""
    white = np.ones((3, 24, 30), np.float32)
    alone = sampled(white, (outer, numbers))
    both = sampled(white, (outer, numbers), (geometry.shuffle_rotate, still(NUMBERS[row])))
    assert (alone == 0).mean() > 0.02
    assert both[alone == 0].max() == 0


def test_shrinking_a_shuffle_in_one_sampling_is_near_two_samplings():
    smooth = ndimage.gaussian_filter(picture(48, 60), (0, 4, 4)) * 4
    shuffled = still(NUMBERS[1])
    both = sampled(
        smooth, (geometry.resize_pad, [0.2, 0.4, 0.7]), (geometry.shuffle_rotate, shuffled)
    )
    twice = shrunk(sliced(smooth, shuffled), [0.2, 0.4, 0.7])
    assert np.median(np.abs(both - twice)) < 1e-3
    assert np.abs(both - twice).mean() < 0.02  # but for the seams


def batch(count=4):
    return torch.from_numpy(np.stack([picture(seed=n) for n in range(count)]))


@pytest.mark.parametrize("names", [*((n,) for n in TRANSFORMS), TRANSFORMS], ids=str)
def test_an_image_draws_from_its_own_stream(names):
    keys, bank = list("abcd"), batch(3)
    together = transforms.apply(batch(), names, keys, 3, (7, 0), bank)
    order = [2, 0]
    some = transforms.apply(batch()[order], names, [keys[i] for i in order], 3, (7, 0), bank)
    assert torch.equal(some, together[order])
    one = batch()[:1]
    shown = [
        transforms.apply(one, names, [key], seed, stream, bank)
        for seed, stream in ((3, (7, 0)), (4, (7, 0)), (3, (8, 0)), (3, (7, 1)))
        for key in ("a", "b", "c", "d", "e", "f")
    ]
    groups = [torch.cat(shown[n : n + 6]) for n in range(0, 24, 6)]
    for group in groups[1:]:  # seed, pass and surrogate are felt
        assert not torch.equal(groups[0], group)
    assert not all(torch.equal(shown[0], other) for other in shown[1:6])  # so is the key


def u(name, key, seed=0, stream=(0,)):
    return uniform(seed, stream_of(name, *stream, key), 1)[0]


def test_scales_are_five_halvings():
    keys = [f"{n}" for n in range(60)]
    image = batch(1).expand(60, -1, -1, -1)
    found = transforms.apply(image, ["si"], keys, 0, (0,))
    powers = [int(5 * u("si", key)) for key in keys]
    assert set(powers) == {0, 1, 2, 3, 4}
    for one, power in zip(found, powers, strict=True):
        assert torch.equal(one, image[0] / 2**power)


def test_admix_adds_a_fifth_of_another_image_before_scaling():
    keys, bank = [f"{n}" for n in range(60)], batch(3)
    image = batch(1).expand(60, -1, -1, -1)
    found = transforms.apply(image, ["admix"], keys, 0, (0,), bank)
    which = [int(3 * u("admix", key)) for key in keys]
    assert set(which) == {0, 1, 2}
    for one, other in zip(found, which, strict=True):
        torch.testing.assert_close(one, image[0] + 0.2 * bank[other])
    scaled = transforms.apply(image, ["si", "admix"], keys, 0, (0,), bank)
    powers = torch.tensor([float(int(5 * u("si", key))) for key in keys])
    torch.testing.assert_close(scaled, found * 0.5 ** powers[:, None, None, None])


def test_admix_needs_other_images():
    with pytest.raises(UsageError, match="admix has no other image"):
        transforms.apply(batch(), ["admix"], list("abcd"), 0, (0,))


@pytest.mark.parametrize("size", [1, 3, 5, 7, 15])
def test_smoothing_is_a_correlation_with_a_gaussian(size):
    line = np.exp(-(np.linspace(-3, 3, size) ** 2) / 2) if size > 1 else np.ones(1)
    kernel = np.outer(line, line) / line.sum() ** 2
    found = transforms.smooth(batch(2) - 0.5, size).numpy()
    for one, image in zip(found, batch(2).numpy() - 0.5, strict=True):
        for channel, plane in zip(one, image, strict=True):
            wanted = ndimage.correlate(plane.astype(float), kernel, mode="constant")
            np.testing.assert_allclose(channel, wanted, atol=1e-6)


def test_gradients_flow_through_every_transform():
    leaf = batch().requires_grad_(True)
    shown = transforms.apply(leaf, TRANSFORMS, list("abcd"), 0, (0,), batch(2))
    (gradient,) = torch.autograd.grad(shown.square().sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).abs().sum(1) > 0).all()
