"""Preprocessing stages against Pillow, an exact cosine transform, and laws of each stage."""

import io

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.preprocess import (
    BitDepth,
    Jpeg,
    Median,
    Preprocessor,
    ResizePad,
    Stage,
    parse,
    spell,
)
from deepfusion_toolkit.preprocess.jpeg import tables

SIZE = (61, 83)  # no multiple of eight


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def clouds():
    """Smooth colours, as photographs have them."""
    small = np.random.default_rng(1).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def board():
    """Black and white with sharp edges, as a circuit board has them."""
    small = np.random.default_rng(2).integers(0, 2, (16, 21)).astype(np.uint8) * 255
    wide = np.asarray(Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.NEAREST))
    return np.repeat(wide[..., None], 3, axis=2)


def as_input(pixels):
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))


def through(pixels, *stages):
    """uint8 [H, W, 3] -> what the stages make of it, in grey levels."""
    found = Preprocessor(stages, pixels.shape[:2])(as_input(pixels))
    levels = (found * 255)[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)  # an 8-bit image
    return np.round(levels)


def by_pillow(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file), dtype=float)


def exactly(pixels, quality):
    """Code and decode in float64, without any rounding but that of colours and coefficients."""
    turn = np.array(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    )
    ycc = np.round(pixels @ turn.T + [-128, 0, 0])
    ycc = np.pad(ycc, [(0, -side % 8) for side in SIZE] + [(0, 0)], mode="edge")
    u, x = np.mgrid[:8, :8]
    cosines = np.where(u == 0, np.sqrt(1 / 8), 0.5 * np.cos((2 * x + 1) * u * np.pi / 16))
    steps = tables(quality).numpy()
    for top in range(0, ycc.shape[0], 8):
        for left in range(0, ycc.shape[1], 8):
            for plane in range(3):
                block = cosines @ ycc[top : top + 8, left : left + 8, plane] @ cosines.T
                block = np.round(block / steps[plane]) * steps[plane]
                ycc[top : top + 8, left : left + 8, plane] = cosines.T @ block @ cosines
    ycc = np.clip(np.round(ycc), -128, 127)[: SIZE[0], : SIZE[1]]
    rgb = (ycc + np.array([128, 0, 0])) @ np.linalg.inv(turn).T
    return np.clip(np.round(rgb), 0, 255)


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
@pytest.mark.parametrize("picture", [noise, clouds, board])
def test_jpeg_is_pillows_as_closely_as_an_exact_transform(picture, quality):
    """Coefficients near the middle of two steps fall to either side in any implementation."""
    pixels = picture()
    wanted, ours = by_pillow(pixels, quality), through(pixels, Jpeg(quality=quality))
    apart = np.abs(ours - wanted).mean()
    assert apart <= 1.25 * np.abs(exactly(pixels, quality) - wanted).mean() + 0.05
    assert apart < 0.2 * np.abs(pixels - wanted).mean() + 0.15


@pytest.mark.parametrize("quality", [50, 75])
def test_most_pixels_of_pictures_are_pillows_to_a_grey_level(quality):
    for pixels in (clouds(), board()):
        apart = np.abs(through(pixels, Jpeg(quality=quality)) - by_pillow(pixels, quality))
        assert (apart <= 1).mean() > 0.9


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
def test_the_tables_are_those_that_pillow_writes(quality):
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, "JPEG", quality=quality, subsampling=0)
    written = Image.open(file).quantization
    found = tables(quality)
    for plane, number in ((0, 0), (1, 1), (2, 1)):
        assert sorted(written[number]) == sorted(found[plane].flatten().int().tolist())


def test_flat_colours_survive_jpeg():
    for colour in ([255, 255, 255], [0, 0, 0], [128, 128, 128]):
        pixels = np.full((*SIZE, 3), colour, np.uint8)
        assert (through(pixels, Jpeg(quality=75)) == pixels).all()


@pytest.mark.parametrize("bits", range(1, 8))
def test_bit_depth_keeps_so_many_levels_evenly_spaced(bits):
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (1, 1, 3))
    found = through(ramp, BitDepth(bits=bits))
    steps = 2**bits - 1
    assert (found[0, :, 0] == np.round(np.round(np.arange(256) * steps / 255) * 255 / steps)).all()
    assert len(np.unique(found)) == 2**bits
    assert (through(found.astype(np.uint8), BitDepth(bits=bits)) == found).all()


@pytest.mark.parametrize("picture", [noise, clouds, board])
def test_the_median_is_pillows(picture):
    pixels = picture()
    wanted = Image.fromarray(pixels).filter(ImageFilter.MedianFilter(3))
    assert (through(pixels, Median()) == np.asarray(wanted)).all()


@pytest.mark.parametrize("share", [0.5, 0.77, 0.9, 0.999])
def test_resize_pad_is_pillows_on_black(share):
    pixels = noise()
    height, width = (int(side * share) for side in SIZE)
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    wanted = np.zeros((*SIZE, 3))
    top, left = (SIZE[0] - height) // 2, (SIZE[1] - width) // 2
    wanted[top : top + height, left : left + width] = np.asarray(small)
    apart = np.abs(through(pixels, ResizePad(share=share)) - wanted)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.02


def test_stages_run_in_their_order_and_none_changes_nothing():
    pixels, first, then = noise(), BitDepth(bits=3), Median()
    both = through(pixels, first, ResizePad(share=0.5), then)
    alone = through(pixels, first).astype(np.uint8)
    alone = through(alone, ResizePad(share=0.5)).astype(np.uint8)
    assert (both == through(alone, then)).all()
    images = torch.rand(2, 3, 4, 5)
    assert Preprocessor((), (4, 5))(images) is images


ALL = (Jpeg(quality=50), BitDepth(bits=4), Median(), ResizePad(share=0.8))


def test_an_image_comes_out_alike_alone_and_in_a_batch():
    images = torch.cat([as_input(noise(seed)) for seed in range(3)])
    chain = Preprocessor(ALL, SIZE)
    assert torch.equal(chain(images)[1:2], chain(images[1:2]))


@pytest.mark.parametrize("stages", [*((stage,) for stage in ALL), ALL], ids=str)
def test_an_attackers_gradient_goes_through(stages):
    """Rounding passes it on unchanged; without that it would be zero everywhere."""
    torch.manual_seed(0)
    images = as_input(clouds()).requires_grad_(True)
    weight = torch.rand(1, 3, *SIZE)
    (gradient,) = torch.autograd.grad((Preprocessor(stages, SIZE)(images) * weight).sum(), images)
    inside = gradient[..., 12:-12, 12:-12]
    assert (inside != 0).float().mean() > 0.05
    if all(isinstance(stage, (Jpeg, BitDepth)) for stage in stages):
        assert torch.allclose(gradient, weight)


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("jpeg:75", Jpeg(quality=75)),
        ("bits:5", BitDepth(bits=5)),
        ("median", Median()),
        ("resize-pad:0.9", ResizePad(share=0.9)),
    ],
)
def test_what_is_typed_is_read_written_and_kept_in_a_plan(text, stage):
    assert parse(text) == stage
    assert spell(stage) == text
    data = msgspec.json.encode([stage])
    assert msgspec.json.decode(data, type=list[Stage]) == [stage]


@pytest.mark.parametrize(
    "text",
    [
        "", "jpeg", "jpeg:", "jpeg:0", "jpeg:101", "jpeg:7.5", "jpeg:x", "bits:8", "bits:0",
        "median:3", "median:", "resize-pad:1", "resize-pad:0.05", "resize-pad:nan", "blur:3",
    ],
)  # fmt: skip
def test_what_is_no_stage_is_refused(text):
    with pytest.raises(
        UsageError, match=r"preprocessing .* is none .*; give --preprocess jpeg"
    ) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
