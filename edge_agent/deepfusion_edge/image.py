"""From the bytes of a PNG or JPEG to the graph's input: header first, then pixels. Pure.

Formats outside the allow-list, animations, 16-bit samples, CMYK and real transparency are refused,
because each of them would silently turn into other pixels than the inspector sees. EXIF orientation
is ignored: a fixed camera does not rotate. Sizes are checked from the header, before any decoding.
"""

import io
import re
import struct
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from deepfusion_edge.bundle.manifest import Preprocess
from deepfusion_edge.erosion import uniform
from deepfusion_edge.errors import InputError

MAX_PIXELS = 64_000_000
MAX_BYTES = 128 * 2**20

Pixels = npt.NDArray[np.uint8]
GraphImage = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
_STRIP_PIXELS = 2**21
_PNG_HEAD = 33  # signature and IHDR chunk
_MARKER = re.compile(rb"\xff{1,4096}([^\xff])")  # with fill bytes before it (ITU-T T.81, B.1.1.2)
_MOST_SEGMENTS = 4096  # before the frame; the largest colour profile takes 255
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_USE_8_BIT = "convert it to an 8-bit grey or RGB PNG or JPEG"


class Header(NamedTuple):
    """What the first bytes say: format, width and height in pixels."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Find format and size without decoding.

    Raises:
        InputError: not a PNG or JPEG, truncated, or of zero size.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= _PNG_HEAD:
        header = Header("PNG", *struct.unpack(">II", data[16:24]))
    elif data[:3] == b"\xff\xd8\xff":
        header = _jpeg_header(data)
    else:
        raise InputError("not a PNG or JPEG image (by its first bytes)", _USE_8_BIT)
    if header.width < 1 or header.height < 1:
        raise InputError(f"image of {header.width}x{header.height} pixels", "replace the file")
    return header


def _jpeg_header(data: bytes) -> Header:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.match(data, at)
        if not found or found.end() + 7 > len(data):
            break
        at = found.end()
        (length,) = struct.unpack(">H", data[at : at + 2])
        if found[1][0] in _START_OF_FRAME:
            height, width = struct.unpack(">HH", data[at + 3 : at + 7])
            return Header("JPEG", width, height)
        at += max(length, 2)
    raise InputError("JPEG without a frame header (truncated?)", "replace the file")


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode to RGB, uint8 [H, W, 3]; grey images are repeated over the three channels.

    Raises:
        InputError: see the module's text; also when the pixels are truncated or corrupt.
    """
    if len(data) > MAX_BYTES:
        raise InputError(
            f"image file of {len(data)} bytes, at most {MAX_BYTES} are read", "shrink it"
        )
    header = read_header(data)
    if header.width * header.height > max_pixels:
        raise InputError(
            f"image of {header.width}x{header.height} pixels, at most {max_pixels}",
            "shrink it or raise the limit",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=[header.format]) as image:
                _check_size(image, header)
                image.load()
                return _rgb(image)
    except InputError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise InputError(f"corrupt image ({error})", "replace the file") from error
    except MemoryError as error:
        raise InputError(
            f"image of {header.width}x{header.height} pixels does not fit into the memory",
            "shrink it, or set a smaller limit for this source",
        ) from error


def _check_size(image: Image.Image, header: Header) -> None:
    """Refuse a file whose first header says another size than the one that counts."""
    if image.size != (header.width, header.height):
        width, height = image.size
        raise InputError(
            f"image of {header.width}x{header.height} pixels by its header,"
            f" {width}x{height} when it is opened",
            "replace the file",
        )


def _rgb(image: Image.Image) -> Pixels:
    """Copy the pixels strip by strip: a large image is in the memory once decoded, once copied."""
    if getattr(image, "n_frames", 1) > 1:
        raise InputError("animated image", "save a single frame")
    if image.mode not in {"1", "L", "P", "RGB", "RGBA", "LA"}:
        raise InputError(f"image mode {image.mode}", _USE_8_BIT)
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = _strip(image.crop((0, top, width, bottom)))
    return pixels


def _strip(image: Image.Image) -> Pixels:
    if image.mode in {"RGBA", "LA"} or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        if int(rgba[..., 3].min()) < 255:  # noqa: PLR2004 - fully opaque
            raise InputError("image with transparent pixels", _USE_8_BIT)
        return rgba[..., :3]
    return np.asarray(image.convert("RGB"))


def as_input(pixels: Pixels, wanted: Preprocess) -> GraphImage:
    """Make of RGB pixels, uint8 [H, W, 3], what a bundle's graph takes as ``image``.

    Raises:
        InputError: the graph takes frames of one size, and these have another.
    """
    if not wanted.framed:
        return to_input(pixels, wanted.height, wanted.width)
    height, width = pixels.shape[:2]
    if (height, width) != (wanted.height, wanted.width):
        raise InputError(
            f"frame of {width}x{height} pixels, the bundle takes {wanted.width}x{wanted.height}",
            "set the camera to that size, or export the bundle for these frames",
        )
    return np.ascontiguousarray((pixels if wanted.color == "RGB" else pixels[..., ::-1])[None])


def probe_image(seed: int, wanted: Preprocess) -> GraphImage:
    """Make the image of a bundle's health probe, as the manifest's ``Golden`` describes it."""
    height, width = wanted.height, wanted.width
    values = uniform(seed, 0, 3 * height * width)
    if wanted.framed:
        return (256 * values).astype(np.uint8).reshape(1, height, width, 3)
    return values.astype(np.float32).reshape(1, 3, height, width)


def to_input(pixels: Pixels, height: int, width: int) -> npt.NDArray[np.float32]:
    """Resize (bilinear, antialiased, only if sizes differ) and scale to [0, 1].

    uint8 [H, W, 3] -> float32 [1, 3, height, width].
    """
    if pixels.shape[:2] != (height, width):
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
    planes /= np.float32(255)
    return planes


def thumbnail(pixels: Pixels, side: int) -> bytes:
    """Make a JPEG of at most ``side`` x ``side`` pixels, for people to look at.

    Large images are thinned out before they are smoothed: a millisecond, whatever their size.
    """
    step = max(1, max(pixels.shape[:2]) // (4 * side))
    small = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    small.thumbnail((side, side), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def encode_png(pixels: Pixels) -> bytes:
    """Spell uint8 [H, W, 3] RGB as PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
