"""What the device makes of pixels, as the manifest says."""

import numpy as np
import pytest

from deepfusion_edge.bundle.manifest import Preprocess
from deepfusion_edge.errors import InputError
from deepfusion_edge.image import as_input, probe_image, to_input

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_prepared_images_are_resized_and_scaled():
    found = as_input(PIXELS, Preprocess(height=2, width=3))
    np.testing.assert_array_equal(found, to_input(PIXELS, 2, 3))
    assert (found.dtype, found.shape) == (np.float32, (1, 3, 2, 3))


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_frames_stay_as_they_are_but_for_the_order_of_channels(color):
    found = as_input(PIXELS, Preprocess(height=4, width=6, color=color, resize="in-graph"))
    assert (found.dtype, found.shape) == (np.uint8, (1, 4, 6, 3))
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found[0], PIXELS if color == "RGB" else PIXELS[..., ::-1])


@pytest.mark.parametrize(("height", "width"), [(6, 4), (4, 7), (8, 12)])
def test_frames_of_another_size_are_refused(height, width):
    with pytest.raises(InputError, match=f"frame of 6x4 pixels, the bundle takes {width}x{height}"):
        as_input(PIXELS, Preprocess(height=height, width=width, resize="in-graph"))


def test_the_probes_image_uses_every_value_of_a_pixel():
    frame = probe_image(1, Preprocess(height=50, width=60, resize="in-graph"))
    assert (frame.dtype, frame.shape) == (np.uint8, (1, 50, 60, 3))
    assert set(np.unique(frame)) == set(range(256))
    image = probe_image(1, Preprocess(height=50, width=60))
    assert (image.dtype, image.shape) == (np.float32, (1, 3, 50, 60))
    assert 0 <= image.min() < 0.01
    assert 0.99 < image.max() < 1
