"""Turns and shifts of images: what they do, and which of them a model does not mind."""

from functools import partial

import numpy as np
import pytest
import torch

from deepfusion_toolkit.augment import SHIFTS, TURNS, Shift, harmless_turns
from deepfusion_toolkit.training import accuracy


def harmless(model, pixels, turns):
    """Turns that a model bears which calls all of these images class 1."""
    labels = torch.ones(len(pixels), dtype=torch.long)
    return harmless_turns(partial(accuracy, model, labels=labels), pixels, 0.02, turns)


def test_only_turns_that_the_model_does_not_mind_are_used():
    class Left(torch.nn.Module):
        """Class 1: the left half is brighter."""

        def forward(self, image):
            dark = image[..., 4:].mean((1, 2, 3)) - image[..., :4].mean((1, 2, 3))
            return torch.stack((dark, -dark), 1)

    pixels = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    pixels[..., :4] = 200
    turns = harmless(Left(), pixels, TURNS)
    assert [turn.__name__ for turn in turns] == ["down"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("down", "across"), [(2, 0), (-1, 0), (0, 3), (0, -2), (1, -1), (0, 0)])
def test_a_shift_is_a_crop_of_the_mirrored_image(down, across, dtype):
    height, width, most = 12, 10, 3
    image = torch.arange(3 * height * width).reshape(1, 3, height, width).to(dtype)
    margins = ((0, 0), (0, 0), (most, most), (most, most))
    padded = np.pad(image.numpy(), margins, mode="reflect")
    top, left = most - down, most - across
    expected = padded[..., top : top + height, left : left + width]
    shifted = Shift(down / height, across / width)(image)
    assert shifted.dtype == dtype
    np.testing.assert_array_equal(shifted.numpy(), expected)


def test_shifts_go_both_ways_by_few_pixels():
    image = torch.arange(32 * 32).reshape(1, 1, 32, 32).expand(1, 3, 32, 32)
    corners = {divmod(int(shift(image)[0, 0, 16, 16]), 32) for shift in SHIFTS}
    sides = {(16 + n, 16) for n in (-2, -1, 1, 2)} | {(16, 16 + n) for n in (-2, -1, 1, 2)}
    assert corners == sides


def test_a_model_that_minds_where_things_are_is_not_shown_shifted_ones():
    class Column(torch.nn.Module):
        """Class 1: column 8 is bright."""

        def forward(self, image):
            bright = image[..., 8].mean((1, 2))
            return torch.stack((0.5 - bright, bright - 0.5), 1)

    pixels = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    pixels[..., 8] = 255
    found = harmless(Column(), pixels, (*TURNS, *SHIFTS))
    assert {turn for turn in found if turn in SHIFTS} == {s for s in SHIFTS if s.down}
