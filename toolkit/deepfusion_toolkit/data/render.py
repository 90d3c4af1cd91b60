"""Render a surface-inspection data set: the same patches for the same seed, each on its own.

A patch depends on (seed, split, class, index) alone, so more images of a class leave the others as
they were. The scene is a bare surface (`surface`), one defect (`defects`) and here the light and
the camera: slanted light with vignetting, a highlight, blur, sensor noise.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from deepfusion_edge.erosion import MAX_SEED, stream_of
from deepfusion_edge.errors import InputError, StorageError, UsageError
from deepfusion_edge.image import Pixels
from deepfusion_toolkit.data.defects import DEFECTS
from deepfusion_toolkit.data.surface import SPAN, Field, Surface, bare, noise

CLASSES = tuple(DEFECTS)
SPLITS = ("train", "test")
VERSION = 1
"""Raised whenever the same seed would give other pixels."""

MANIFEST = "manifest.json"
_SIZES = (32, 512)

Progress = Callable[[int, int], None]


def patch(seed: int, split: str, name: str, index: int, size: int = 64) -> Pixels:
    """Render one patch, uint8 [size, size, 3].

    Args:
        seed: which data set, in [0, 2**53 - 1].
        split: "train" or "test".
        name: one of `CLASSES`.
        index: which image of the class.
        size: height and width in pixels.
    """
    key = np.array([seed, stream_of("render", split, name, index)], dtype=np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    surface = bare(rng, size)
    DEFECTS[name](surface, rng)
    return _photograph(_illuminate(surface, rng), rng)


def _illuminate(surface: Surface, rng: np.random.Generator) -> Field:
    """Light [S, S, 3]: colour under slanted light, flanks shaded by their slope, a highlight."""
    size = len(surface.x)
    azimuth = rng.uniform(0, 2 * np.pi)
    slope_y, slope_x = np.gradient(surface.height, np.float32(SPAN / size))
    slope = slope_x * np.float32(np.cos(azimuth)) + slope_y * np.float32(np.sin(azimuth))
    u, v = surface.along(azimuth, SPAN / 2, SPAN / 2)
    fall_off = 1 + rng.uniform(-0.25, 0.25) * u / SPAN
    vignette = 1 - rng.uniform(0.1, 0.35) * (u * u + v * v) / (SPAN * SPAN)
    uneven = 1 + 0.03 * noise(rng, size, 16, 16)
    shade = np.clip(1 + rng.uniform(0.9, 1.4) * slope, 0.25, 2.0)
    light = rng.uniform(0.75, 1.15) * fall_off * vignette * uneven * shade
    # a brushed surface smears the highlight across its marks
    cx, cy = rng.uniform(-0.2 * SPAN, 1.2 * SPAN, 2)
    along, across = surface.along(surface.direction, cx, cy)
    sharp, smeared = rng.uniform(9, 22), rng.uniform(30, 80)
    spot = np.exp(-np.square(along / sharp) - np.square(across / smeared))
    mirror = rng.uniform(0.0, 0.38) * spot * surface.gloss * np.clip(1 + 1.5 * slope, 0, 2.5)
    lit = surface.colour * light[..., None] + mirror[..., None]
    return np.asarray(lit, dtype=np.float32)


def _photograph(light: Field, rng: np.random.Generator) -> Pixels:
    """Lens blur, white balance, shot and read noise, gamma, eight bits."""
    side = np.float32(rng.uniform(0.02, 0.2))
    for axis in (0, 1):
        before, after = np.roll(light, 1, axis), np.roll(light, -1, axis)
        edge = [slice(None)] * 3
        for at, rolled in ((0, before), (-1, after)):
            edge[axis] = slice(at, None) if at else slice(0, 1)
            rolled[tuple(edge)] = light[tuple(edge)]
        light = light * (1 - 2 * side) + side * (before + after)
    light = np.maximum(light * rng.uniform(0.96, 1.04, 3).astype(np.float32), 0)
    shot, read = rng.uniform(0.005, 0.02), rng.uniform(0.002, 0.008)
    grain = rng.standard_normal(light.shape, dtype=np.float32)
    light = light + grain * np.sqrt(shot**2 * light + read**2).astype(np.float32)
    display = np.power(np.clip(light, 0, 1), np.float32(1 / 2.2))
    return np.asarray(np.rint(display * 255), dtype=np.uint8)


def render(
    out: Path,
    *,
    seed: int,
    per_class: Mapping[str, int],
    size: int = 64,
    progress: Progress | None = None,
) -> None:
    """Write ``out/{train,test}/CLASS/CLASS_00001.png`` and ``out/manifest.json``, or nothing.

    The folder appears complete under its name. If it is there already with the same settings and
    unchanged files, nothing is done.

    Args:
        out: a folder that does not exist or is empty.
        seed: which data set, in [0, 2**53 - 1].
        per_class: images of each class in "train", "test" or both.
        size: height and width in pixels, 32 to 512.
        progress: called with (images done, images in all).

    Raises:
        UsageError: a setting is out of range.
        InputError: the folder holds something else, or an altered data set.
        StorageError: the files cannot be written.
    """
    settings = _settings(seed, per_class, size)
    if _is_there(out, settings):
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as staging:
            whole = Path(staging) / out.name
            _write(whole, seed, per_class, size, progress)
            text = json.dumps({**settings, "sha256": digest(whole)}, indent=2)
            (whole / MANIFEST).write_text(text + "\n", encoding="utf-8")
            whole.replace(out)
    except OSError as error:
        raise StorageError(
            f"{out} cannot be written ({error.strerror})", "free space or choose another folder"
        ) from error


def _settings(seed: int, per_class: Mapping[str, int], size: int) -> dict[str, object]:
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed {seed} is not in [0, {MAX_SEED}]", "choose another seed")
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise UsageError(
            f"size {size} is not in [{_SIZES[0]}, {_SIZES[1]}] pixels", "choose another"
        )
    if not per_class or any(s not in SPLITS or n < 1 for s, n in per_class.items()):
        raise UsageError(
            f"images per class {dict(per_class)} are not at least 1 for train, test or both",
            "give for example train=200 and test=40",
        )
    counts = {split: per_class[split] for split in SPLITS if split in per_class}
    return {
        "generator": "deepfusion surface patches",
        "version": VERSION,
        "seed": seed,
        "size": size,
        "classes": list(CLASSES),
        "per_class": counts,
        "images": sum(counts.values()) * len(CLASSES),
    }


def _is_there(out: Path, settings: dict[str, object]) -> bool:
    """Tell whether the folder holds this very data set already; refuse any other content."""
    if not out.exists():
        return False
    if not out.is_dir() or (next(out.iterdir(), None) and not (out / MANIFEST).is_file()):
        raise InputError(f"{out} exists and holds no rendered data set", "choose an empty folder")
    if not (out / MANIFEST).exists():
        return False
    try:
        found = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or {k: found.get(k) for k in settings} != settings:
        raise InputError(
            f"{out} holds a data set of other settings", "choose an empty folder or remove it"
        )
    if found.get("sha256") != digest(out):
        raise InputError(
            f"{out} was changed after it was rendered", "remove the folder to render it again"
        )
    return True


def _write(
    root: Path, seed: int, per_class: Mapping[str, int], size: int, progress: Progress | None
) -> None:
    total, done = sum(per_class.values()) * len(CLASSES), 0
    for split, count in per_class.items():
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(1, count + 1):
                buffer = io.BytesIO()
                Image.fromarray(patch(seed, split, name, index, size)).save(
                    buffer, "PNG", compress_level=3
                )
                (folder / f"{name}_{index:05d}.png").write_bytes(buffer.getvalue())
                done += 1
                if progress is not None:
                    progress(done, total)


def digest(root: Path) -> str:
    """Return the SHA-256 over names and contents of all files but the manifest, in sorted order."""
    whole = hashlib.sha256()
    files = (p for p in root.rglob("*") if p.is_file())
    for path in sorted(files, key=lambda p: p.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        if name != MANIFEST:
            whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()
