"""Pictures: bombs, truncated ones, other formats in disguise; each by the judge that a line has."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from benchmarks.prove.hostile.case import Case
from benchmarks.prove.hostile.world import World, png
from deepfusion_edge.config import FolderSource, MqttSource
from deepfusion_edge.image import MAX_BYTES
from deepfusion_edge.report.messages import Incoming
from deepfusion_edge.source.folder import Folder
from deepfusion_edge.source.mqtt_images import MqttImages

_MAGIC = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def _ihdr(width: int, height: int, *, depth: int = 8, colour: int = 2) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def _png(*chunks: bytes) -> bytes:
    return _MAGIC + b"".join(chunks) + _chunk(b"IEND", b"")


def _repeated(block: bytes, count: int) -> bytes:
    """Compress a block that comes many times, in the time of one."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    once = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    check = 1
    for _ in range(count):
        check = zlib.adler32(block, check)
    return b"\x78\x01" + once * count + packer.flush() + struct.pack(">I", check)


def _many() -> bytes:
    """Compress a quarter of a gigabyte."""
    return _repeated(bytes(2**20), 2**8)


def _rows(row: bytes, count: int) -> bytes:
    """Make an image's data of so many rows, a multiple of 100."""
    return _chunk(b"IDAT", _repeated((b"\0" + row) * 100, count // 100))


def _opaque() -> bytes:
    """Make 64 megapixels with an alpha channel that says nothing."""
    return _png(_ihdr(8000, 8000, colour=6), _rows(b"\0\0\0\xff" * 8000, 8000))


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _jpeg(mode: str = "RGB", **options: object) -> bytes:
    return _saved(Image.new(mode, (16, 16)), "JPEG", **options)


def gif() -> bytes:
    """Make a picture in a format that is not taken."""
    return _saved(Image.new("P", (8, 8)), "GIF")


def _animated() -> bytes:
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (1, 99)]
    return _saved(frames[0], "PNG", save_all=True, append_images=frames[1:])


def _several() -> bytes:
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (1, 99)]
    return _saved(frames[0], "MPO", save_all=True, append_images=frames[1:])


def two_sizes() -> bytes:
    """Say a small size first and a large one, which counts, later."""
    return _png(_ihdr(8, 8), _ihdr(2000, 2000), _rows(bytes(6000), 2000))


def _two_frames() -> bytes:
    """Say a small size in a first frame header and a large one in a second."""
    data = _jpeg()
    at = data.index(b"\xff\xc0")
    length = struct.unpack(">H", data[at + 2 : at + 4])[0]
    header = bytearray(data[at : at + 2 + length])
    header[5:9] = struct.pack(">HH", 2000, 2000)
    end = at + 2 + length
    return data[:end] + bytes(header) + data[end:]


def _exif_loop() -> bytes:
    """Make EXIF whose directory names itself as the next one."""
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", 0) + struct.pack("<I", 8)
    return _jpeg(exif=b"Exif\x00\x00" + tiff)


def _text_bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    image = Image.new("RGB", (8, 8))
    data = _saved(image, "PNG", pnginfo=info)
    bomb = _chunk(b"zTXt", b"Comment\x00\x00" + _many())
    at = data.index(b"IDAT") - 4
    return data[:at] + bomb + data[at:]


def _profile_bomb() -> bytes:
    data = png(8, 8)
    bomb = _chunk(b"iCCP", b"evil\x00\x00" + _many())
    return data[:33] + bomb + data[33:]


def _transparent() -> bytes:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[0, 0, 3] = 254
    return _saved(Image.fromarray(pixels), "PNG")


def _colour_key() -> bytes:
    return _saved(Image.new("RGB", (8, 8)), "PNG", transparency=(0, 0, 0))


def _sixteen_bit() -> bytes:
    return _saved(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG")


def _judged(make: Callable[[], bytes], **limits: int) -> Callable[[World], str]:
    return lambda world: world.judge(make(), **limits)


def _mqtt(make: Callable[[], bytes], *, retained: bool = False) -> Callable[[World], str]:
    def drive(_world: World) -> str:
        images = MqttImages(MqttSource(name="cam", topic="plant/cam", max_pixels=10_000))
        images.take(Incoming("plant/cam", png(8, 8), retained=False, qos=1))
        images.take(Incoming("plant/cam", make(), retained, 1))
        state = images.state
        frames = [frame for frame, _ in zip(images, range(3), strict=False) if frame is not None]
        images.close()
        if [frame.sequence for frame in frames] != [0]:
            return f"{len(frames)} frames were taken"
        return f"state refused {state.refused}: {state.reason}"

    return drive


def _in_folder(put: Callable[[str], object], **options: object) -> Callable[[World], str]:
    def drive(world: World) -> str:
        folder = world.inbox / "frames"
        folder.mkdir()
        put(str(folder))
        (folder / "z.png").write_bytes(png(8, 8))
        plain: dict[str, object] = {"name": "cam", "path": str(folder)}
        frames = list(Folder(FolderSource(**(plain | options))))  # type: ignore[arg-type]
        taken = [f for f in frames if f is not None and isinstance(f.content, bytes)]
        problems = [str(f.content) for f in frames if f is not None and f not in taken]
        if [frame.name for frame in taken] != ["z.png"]:
            return f"taken: {[frame.name for frame in taken]}"
        return "state unreadable: " + "; ".join(problems)

    return drive


def _large_file(folder: str) -> None:
    with Path(folder, "a.png").open("wb") as file:
        file.write(png(8, 8))
        file.truncate(2**30)


def _pipe(folder: str) -> None:
    os.mkfifo(f"{folder}/a.png")


def _swapped(world: World) -> str:
    """Let a pipe take the place of a file that was listed already."""
    folder = world.inbox / "frames"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png(8, 8))
    frames = iter(Folder(FolderSource(name="cam", path=str(folder))))
    next(frames)
    (folder / "b.png").unlink()
    os.mkfifo(folder / "b.png")
    frame = next(frames)
    return world.judge(frame.content if frame and isinstance(frame.content, bytes) else b"?")


def _picture(name: str, guard: str, make: Callable[[], bytes], says: str, **limits: int) -> Case:
    return Case(name, guard, _judged(make, **limits), f"alert unreadable: .*{says}")


_OTHERS: Sequence[tuple[str, Callable[[], bytes]]] = (
    ("a GIF", gif),
    ("a TIFF", lambda: _saved(Image.new("RGB", (8, 8)), "TIFF")),
    ("a BMP", lambda: _saved(Image.new("RGB", (8, 8)), "BMP")),
    ("a WebP", lambda: _saved(Image.new("RGB", (8, 8)), "WEBP")),
    ("an ICO", lambda: _saved(Image.new("RGB", (16, 16)), "ICO")),
    ("a PDF", lambda: _saved(Image.new("RGB", (8, 8)), "PDF")),
    ("an SVG that names a file", lambda: b"<svg><image href='file:///etc/passwd'/></svg>"),
    ("a PostScript program", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) run"),
    ("a page of HTML before a PNG", lambda: b"<html></html>" + png(8, 8)),
    ("nothing", lambda: b""),
)

CASES = (
    *(
        _picture(name, "formats of images", make, "not a PNG or JPEG image")
        for name, make in _OTHERS
    ),
    _picture(
        "a PNG of 900 megapixels in 3 MB",
        "pixels of an image",
        lambda: _png(_ihdr(30_000, 30_000), _chunk(b"IDAT", _many())),
        "image of 30000x30000 pixels, at most 64000000",
    ),
    _picture(
        "a PNG of 2^31 pixels a side",
        "pixels of an image",
        lambda: _png(_ihdr(2**31 - 1, 2**31 - 1), _chunk(b"IDAT", _many())),
        "at most 64000000",
    ),
    _picture(
        "a JPEG of 65535 pixels a side",
        "pixels of an image",
        lambda: _jpeg().replace(struct.pack(">HH", 16, 16), struct.pack(">HH", 65535, 65535), 1),
        "image of 65535x65535 pixels, at most",
    ),
    _picture(
        "a size within the limit of others, not of this source",
        "pixels of an image",
        lambda: png(101, 100),
        "image of 101x100 pixels, at most 10000",
        max_pixels=10_000,
    ),
    _picture(
        "a PNG that says two sizes",
        "one size of an image",
        two_sizes,
        "image of 8x8 pixels by its header, 2000x2000 when it is opened",
        max_pixels=10_000,
    ),
    _picture(
        "a JPEG that says two sizes",
        "one size of an image",
        _two_frames,
        "corrupt image|image of 16x16 pixels by its header, 2000x2000 when it is opened",
        max_pixels=10_000,
    ),
    _picture("a PNG of no pixels", "zero size", lambda: _png(_ihdr(0, 8)), "image of 0x8 pixels"),
    _picture(
        "a JPEG of no pixels",
        "zero size",
        lambda: _jpeg().replace(struct.pack(">HH", 16, 16), struct.pack(">HH", 0, 16), 1),
        "image of 16x0 pixels",
    ),
    _picture("a header alone", "end of pixels", lambda: _png(_ihdr(8, 8)), "corrupt image"),
    _picture("a PNG cut off", "end of pixels", lambda: png(64, 64)[:-40], "corrupt image"),
    _picture("a JPEG cut off", "end of pixels", lambda: _jpeg()[:-60], "corrupt image"),
    _picture(
        "a JPEG without a frame",
        "frame of a JPEG",
        lambda: b"\xff\xd8\xff\xe0\x00\x02" + b"\xff\xfe\x00\x02" * 1000,
        "JPEG without a frame header",
    ),
    _picture(
        "a JPEG of fill bytes",
        "frame of a JPEG",
        lambda: b"\xff\xd8" + b"\xff" * 2**26,
        "JPEG without a frame header",
    ),
    _picture(
        "a JPEG of a million segments",
        "segments of a JPEG",
        lambda: b"\xff\xd8" + b"\xff\xfe\x00\x02" * 2**20 + _jpeg()[2:],
        "JPEG without a frame header",
    ),
    Case("an EXIF that names itself", "", _judged(_exif_loop), "judged as "),
    _picture("text of 256 MB in a PNG", "errors of a decoder", _text_bomb, "corrupt image"),
    Case(
        "a colour profile of 256 MB in a PNG",
        "",
        _judged(_profile_bomb),
        "judged as |corrupt image",
    ),
    _picture(
        "a checksum that is wrong",
        "errors of a decoder",
        lambda: png(8, 8).replace(b"IDAT", b"IDAT", 1)[:29] + b"evil" + png(8, 8)[33:],
        "corrupt image",
    ),
    _picture("16 bits a sample", "modes of images", _sixteen_bit, "image mode I"),
    _picture("CMYK", "modes of images", lambda: _jpeg("CMYK"), "image mode CMYK"),
    _picture("transparent pixels", "transparency", _transparent, "image with transparent pixels"),
    _picture("a transparent colour", "transparency", _colour_key, "image with transparent pixels"),
    _picture("an animation", "number of frames", _animated, "animated image"),
    _picture("several pictures in a JPEG", "number of frames", _several, "animated image"),
    _picture(
        "more bytes than are read",
        "bytes of an image",
        lambda: png(8, 8) + bytes(MAX_BYTES),
        "image file of 13421[0-9]* bytes, at most",
    ),
    Case(
        "64 megapixels, the most that is allowed",
        "strips of an image",
        _judged(_opaque),
        "judged as ",
    ),
    Case(
        "retained at the broker",
        "retained images",
        _mqtt(lambda: png(8, 8), retained=True),
        "state refused 1: the last image refused: it was retained",
    ),
    Case(
        "a bomb by MQTT",
        "pixels of images by MQTT",
        _mqtt(lambda: png(101, 100)),
        "state refused 1: .*101x100 pixels, at most 10000",
    ),
    Case(
        "no picture by MQTT",
        "headers of images by MQTT",
        _mqtt(lambda: b"GIF89a"),
        "state refused 1: .*not a PNG or JPEG",
    ),
    Case(
        "a pipe in a folder",
        "plain files of a folder",
        _in_folder(_pipe),
        "state unreadable: $",
    ),
    Case(
        "a pipe in the place of a file that was listed",
        "pipes of a folder",
        _swapped,
        "alert unreadable: not a PNG or JPEG",
    ),
    Case(
        "a file of a gigabyte in a folder",
        "bytes of a file",
        _in_folder(_large_file, max_bytes=2**20),
        "state unreadable: image file of more than 1048576 bytes",
    ),
)
