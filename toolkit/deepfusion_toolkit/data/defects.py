"""Defects of a surface, one function a class; each changes colour, relief and gloss in place.

Position, size, depth, orientation and outline vary; the weakest of each class are meant to be
hard to see, as they are on a line.
"""

from collections.abc import Callable, Mapping

import numpy as np

from deepfusion_toolkit.data.surface import SPAN, Field, Surface, noise, step

Defect = Callable[[Surface, np.random.Generator], None]


def _ok(surface: Surface, rng: np.random.Generator) -> None:
    """Nothing, but often dust: specks too small to matter."""
    for _ in range(int(rng.integers(0, 4))):
        px, py = rng.uniform(0, SPAN, 2)
        r = np.hypot(surface.x - np.float32(px), surface.y - np.float32(py))
        surface.tint(np.float32(rng.uniform(0.1, 0.3)) * step(r - np.float32(0.6), 1.0), 0.5)


def _scratch(surface: Surface, rng: np.random.Generator) -> None:
    """One to three thin, smooth grooves with bright flanks, some across the brush marks."""
    angle = surface.direction + rng.uniform(0.25, np.pi - 0.25)
    cx, cy = _place(rng, 14)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        u, v = surface.along(angle + rng.normal(0, 0.08), cx, cy + rng.normal(0, 4))
        half = rng.uniform(14, 30)
        bow = np.float32(rng.normal(0, 3) / 30**2)
        across = v - bow * u * u
        ends = step(np.abs(u) - np.float32(half), 6.0)
        width = np.float32(rng.uniform(0.7, 1.2))
        groove = np.exp(-np.square(across / width)) * ends
        depth = np.float32(rng.uniform(0.8, 1.4))
        surface.height -= depth * groove
        surface.gloss += np.float32(0.5) * depth * groove
        bare_metal = surface.colour * np.float32(1.3) + np.float32(0.12)
        surface.tint(np.float32(0.75) * depth * groove, bare_metal)


def _dent(surface: Surface, rng: np.random.Generator) -> None:
    """A smooth hollow or bump, oval, with one bright and one dark flank; the colour stays."""
    cx, cy = _place(rng, 12)
    u, v = surface.along(rng.uniform(0, np.pi), cx, cy)
    radius, oval = rng.uniform(4.5, 10), rng.uniform(0.6, 1.0)
    r = np.hypot(u, v / np.float32(oval)) / np.float32(radius)
    depth = radius * rng.uniform(0.32, 0.55) * rng.choice([1, 1, -1])
    hollow = np.exp(-np.power(r, np.float32(rng.uniform(2.0, 4.0))))
    surface.height -= np.float32(depth) * hollow
    surface.gloss *= 1 - np.float32(0.3) * hollow


def _stain(surface: Surface, rng: np.random.Generator) -> None:
    """Corrosion: an irregular patch of brown, dark or pale film with a darker rim and pits."""
    size = len(surface.x)
    cx, cy = _place(rng, 12)
    r = np.hypot(surface.x - np.float32(cx), surface.y - np.float32(cy))
    outline = noise(rng, size, 4.5, 4.5) * 3.2 + noise(rng, size, 1.2, 1.2) * 1.1
    distance = r - np.float32(rng.uniform(6, 14)) + outline.astype(np.float32)
    film = step(distance, 5.0)
    rim = np.exp(-np.square(distance / np.float32(1.6)))
    hues = ((0.27, 0.11, 0.04), (0.36, 0.19, 0.07), (0.10, 0.09, 0.08), (0.62, 0.62, 0.55))
    hue = np.asarray(hues[rng.choice(4, p=[0.4, 0.25, 0.15, 0.2])], dtype=np.float32)
    strength = np.float32(rng.uniform(0.65, 0.95))
    spots = np.clip(1 + 0.35 * noise(rng, size, 0.9, 0.9), 0.3, 1.6).astype(np.float32)
    surface.tint(np.clip(strength * film * spots, 0, 1), hue)
    surface.tint(np.float32(0.35) * strength * rim, hue * np.float32(0.5))
    surface.gloss *= 1 - np.float32(0.8) * film * strength
    surface.height += np.float32(0.12) * film * spots


def _crack(surface: Surface, rng: np.random.Generator) -> None:
    """A dark, jagged, branching line that tapers to its ends."""
    cx, cy = _place(rng, 14)
    heading = rng.uniform(0, 2 * np.pi)
    width = rng.uniform(1.0, 1.6)
    length = rng.uniform(14, 26)
    line = np.zeros_like(surface.x)
    for turn in (0.0, np.pi):
        branches = [(cx, cy, heading + turn + rng.normal(0, 0.3), length, width)]
        for _ in range(int(rng.integers(0, 3))):
            branches.append((*_walk(surface, rng, line, branches[0]), length / 2, width * 0.7))
        for branch in branches[1:] or branches:
            _walk(surface, rng, line, branch)
    line *= np.float32(rng.uniform(0.5, 0.95))
    surface.tint(line, surface.colour * np.float32(0.12))
    surface.gloss *= 1 - np.float32(0.9) * line
    surface.height -= np.float32(0.35) * line


def _walk(
    surface: Surface,
    rng: np.random.Generator,
    line: Field,
    start: tuple[float, float, float, float, float],
) -> tuple[float, float, float]:
    """Draw one jagged branch into the mask; return a place on it and a heading to branch off."""
    px, py, heading, length, width = start
    pieces = max(3, int(length / 3.2))
    off = (px, py, heading)
    for piece in range(pieces):
        angle = heading + rng.normal(0, 0.55)
        u, v = surface.along(angle, px, py)
        reach = np.float32(length / pieces)
        distance = np.hypot(u - np.clip(u, 0, reach), v)
        half = np.float32(width * (1 - 0.75 * piece / pieces) / 2)
        np.maximum(line, step(distance - half, 0.9), out=line)
        px, py = px + float(reach * np.cos(angle)), py + float(reach * np.sin(angle))
        if piece == pieces // 2:
            off = (px, py, heading + float(rng.choice([-1, 1])) * rng.uniform(0.5, 1.1))
    return off


def _hole(surface: Surface, rng: np.random.Generator) -> None:
    """One to three pits or pin holes: dark, round, sharp, lit on the far wall, burr around."""
    cx, cy = _place(rng, 10)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        radius = np.float32(rng.uniform(2.2, 4.8))
        u, v = surface.along(rng.uniform(0, np.pi), cx, cy)
        r = np.hypot(u, v / np.float32(rng.uniform(0.8, 1.0)))
        pit = step(r - radius, 0.9)
        burr = np.exp(-np.square((r - radius - np.float32(0.6)) / np.float32(0.7)))
        surface.tint(np.float32(rng.uniform(0.6, 0.97)) * pit, surface.colour * np.float32(0.1))
        surface.gloss *= 1 - pit
        surface.height += np.float32(rng.uniform(0.15, 0.5)) * burr - np.float32(0.5) * pit
        cx, cy = cx + rng.normal(0, 11), cy + rng.normal(0, 11)


def _place(rng: np.random.Generator, margin: float) -> tuple[float, float]:
    px, py = rng.uniform(margin, SPAN - margin, 2)
    return float(px), float(py)


DEFECTS: Mapping[str, Defect] = {
    "crack": _crack,
    "dent": _dent,
    "hole": _hole,
    "ok": _ok,
    "scratch": _scratch,
    "stain": _stain,
}
"""Class name -> what it does to a bare surface, in sorted order, which is the class number's."""
