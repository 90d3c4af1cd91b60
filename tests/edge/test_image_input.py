"""What the device makes of files and pixels, as the manifest says."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deepfusion_edge import image as module
from deepfusion_edge.bundle.manifest import Preprocess
from deepfusion_edge.errors import InputError
from deepfusion_edge.image import as_input, decode, encode_png, probe_image, to_input

pytestmark = pytest.mark.processor

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


def _header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_second_header_cannot_smuggle_more_pixels_past_the_limit():
    large = encode_png(np.zeros((40, 50, 3), np.uint8))
    smuggled = large[:8] + _header(6, 4) + large[8:]
    assert decode(large).shape == (40, 50, 3)
    with pytest.raises(InputError, match="6x4 pixels by its header, 50x40 when it is opened"):
        decode(smuggled, max_pixels=100)


def _saved(pixels, mode):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("strip", [1, 12, 13, 10**6])
def test_strips_of_any_size_make_the_same_pixels(mode, strip, monkeypatch):
    data = _saved(PIXELS, mode)
    with Image.open(io.BytesIO(data)) as image:
        whole = np.array(image.convert("RGB"))
    monkeypatch.setattr(module, "_STRIP_PIXELS", strip)
    found = decode(data)
    np.testing.assert_array_equal(found, whole)
    assert found.flags.c_contiguous
    assert found.flags.writeable


@pytest.mark.parametrize("row", range(4))
def test_transparent_pixels_are_seen_in_every_strip(row, monkeypatch):
    pixels = np.full((4, 6, 4), 255, np.uint8)
    pixels[row, 5, 3] = 254
    monkeypatch.setattr(module, "_STRIP_PIXELS", 6)
    with pytest.raises(InputError, match="image with transparent pixels"):
        decode(_saved(pixels, "RGBA"))


def test_a_memory_that_is_too_small_is_called_so(monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(module.np, "empty", full)
    with pytest.raises(InputError, match="of 6x4 pixels does not fit into the memory"):
        decode(encode_png(PIXELS))
