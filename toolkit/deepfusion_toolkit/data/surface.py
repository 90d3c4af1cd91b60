"""Bare surfaces, before any defect: brushed or ground metal and printed circuit board.

Lengths are in units of 1/64 of the patch, so that a patch shows the same scene at every size.
Colours are linear reflectances in [0, 1].
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]

SPAN = 64.0
"""Units across a patch."""

_METALS = (
    (0.56, 0.58, 0.60),  # steel
    (0.68, 0.69, 0.70),  # aluminium
    (0.66, 0.56, 0.36),  # brass
    (0.64, 0.43, 0.33),  # copper
    (0.33, 0.34, 0.37),  # dark steel
    (0.50, 0.49, 0.46),  # titanium
)
_MASKS = (
    (0.05, 0.24, 0.11),  # green
    (0.03, 0.15, 0.09),  # dark green
    (0.05, 0.11, 0.30),  # blue
    (0.32, 0.05, 0.05),  # red
    (0.06, 0.06, 0.07),  # black
)
_FINISHES = ((0.74, 0.57, 0.25), (0.64, 0.65, 0.67))  # gold, tin


@dataclass
class Surface:
    """What light falls on; defects change it in place.

    Attributes:
        x: [S, S] position to the right, in units.
        y: [S, S] position downwards, in units.
        colour: [S, S, 3] reflectance.
        height: [S, S] relief in units, of which the slope is shaded.
        gloss: [S, S] how much of a highlight the place mirrors.
        direction: angle of the brush marks or traces, radians.
        metal: False for a board.
    """

    x: Field
    y: Field
    colour: Field
    height: Field
    gloss: Field
    direction: float
    metal: bool

    def along(self, angle: float, cx: float, cy: float) -> tuple[Field, Field]:
        """Return coordinates along and across a line at an angle through (cx, cy)."""
        dx, dy = self.x - np.float32(cx), self.y - np.float32(cy)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return dx * c + dy * s, dy * c - dx * s

    def tint(self, mask: Field, colour: Field | tuple[float, float, float] | float) -> None:
        """Blend the colour in where the mask [S, S] in [0, 1] says so."""
        self.colour += mask[..., None] * (np.asarray(colour, dtype=np.float32) - self.colour)


def step(distance: Field, softness: float = 0.7) -> Field:
    """Return 1 inside (distance < 0), 0 outside, with a soft edge of the given width in units."""
    inside: Field = np.clip(0.5 - distance / np.float32(softness), 0.0, 1.0)
    return inside


def noise(
    rng: np.random.Generator, size: int, along: float, across: float, angle: float = 0.0
) -> Field:
    """Gaussian noise [S, S] of unit variance, smooth over the given lengths (units) at an angle."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    fy = np.fft.fftfreq(size, SPAN / size)[:, None]
    fx = np.fft.rfftfreq(size, SPAN / size)[None, :]
    fa = fx * np.cos(angle) + fy * np.sin(angle)
    fc = fy * np.cos(angle) - fx * np.sin(angle)
    spectrum *= np.exp(-2 * np.pi**2 * ((along * fa) ** 2 + (across * fc) ** 2))
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return np.asarray(field / (field.std() + np.float32(1e-6)), dtype=np.float32)


def bare(rng: np.random.Generator, size: int) -> Surface:
    """Draw a surface without a defect, two metals to one board."""
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(SPAN / size)
    x, y = np.meshgrid(axis, axis)
    metal = bool(rng.random() < 2 / 3)
    tints = _METALS if metal else _MASKS
    tint = np.asarray(tints[rng.integers(len(tints))]) * rng.uniform(0.6, 1.1)
    tint *= rng.uniform(0.94, 1.06, 3)
    surface = Surface(
        x=x,
        y=y,
        colour=np.broadcast_to(tint.astype(np.float32), (size, size, 3)).copy(),
        height=np.zeros((size, size), dtype=np.float32),
        gloss=np.full((size, size), 0.55 if metal else 0.35, dtype=np.float32),
        direction=float(rng.uniform(0, np.pi)),
        metal=metal,
    )
    (_machine if metal else _lay_out)(surface, rng, size)
    return surface


def _machine(surface: Surface, rng: np.random.Generator, size: int) -> None:
    """Brush marks; on every third patch ground ones, which run in wide arcs."""
    fine = noise(rng, size, rng.uniform(6, 18), 0.45, surface.direction)
    coarse = noise(rng, size, rng.uniform(14, 30), rng.uniform(1.2, 2.6), surface.direction)
    if rng.random() < 1 / 3:
        radius = rng.uniform(1.2, 5) * SPAN
        away = surface.direction + np.pi / 2
        u, v = surface.along(
            away, SPAN / 2 - radius * np.cos(away), SPAN / 2 - radius * np.sin(away)
        )
        rings = rng.standard_normal(512)
        at = (np.hypot(u, v) - radius + 2 * SPAN) * 1.6
        coarse = np.interp(at, np.arange(512), rings).astype(np.float32)
        fine *= np.float32(0.5)
    mottle = noise(rng, size, 9, 9)
    marks = rng.uniform(0.03, 0.09) * fine + rng.uniform(0.02, 0.06) * coarse + 0.02 * mottle
    surface.colour *= np.exp(marks).astype(np.float32)[..., None]
    surface.gloss *= np.exp(2 * marks).astype(np.float32)


def _lay_out(surface: Surface, rng: np.random.Generator, size: int) -> None:
    """Traces under the solder mask with a 45 degree jog, pads and plated vias on top."""
    surface.direction = float(rng.integers(4)) * np.pi / 4
    cx, cy = rng.uniform(0.2 * SPAN, 0.8 * SPAN, 2)
    u, v = surface.along(surface.direction, cx, cy)
    weave = np.sin(u * np.float32(2.1)) * np.sin(v * np.float32(2.1))
    grain = noise(rng, size, 0.6, 0.6)
    surface.colour *= (1 + 0.04 * weave + 0.03 * grain)[..., None]
    jog = rng.uniform(4, 14) * rng.choice([-1, 1])
    bent = v + np.clip(u * np.sign(jog), 0, abs(jog)) * np.float32(np.sign(jog))
    pitch, breadth = rng.uniform(7, 13), rng.uniform(2.2, 4.5)
    first = int(rng.integers(-3, 2))
    for lane in range(first, first + int(rng.integers(1, 5))):
        trace = step(np.abs(bent - np.float32(lane * pitch)) - np.float32(breadth / 2))
        surface.height = np.maximum(surface.height, np.float32(0.35) * trace)
        surface.tint(np.float32(0.35) * trace, surface.colour.mean((0, 1)) * 1.7 + 0.05)
    finish = np.asarray(_FINISHES[rng.integers(2)]) * rng.uniform(0.85, 1.1)
    for _ in range(int(rng.integers(0, 4))):
        _pad(surface, rng, finish.astype(np.float32))


def _pad(surface: Surface, rng: np.random.Generator, finish: Field) -> None:
    px, py = rng.uniform(0, SPAN, 2)
    if rng.integers(2):  # plated via
        radius = rng.uniform(2.6, 4.2)
        r = np.hypot(surface.x - np.float32(px), surface.y - np.float32(py))
        pad, drill = step(r - np.float32(radius)), step(r - np.float32(0.45 * radius))
    else:
        u, v = surface.along(surface.direction, px, py)
        long, wide = rng.uniform(4, 8), rng.uniform(2.5, 4)
        pad = step(np.maximum(np.abs(u) - np.float32(long), np.abs(v) - np.float32(wide)))
        drill = np.zeros_like(pad)
    surface.tint(pad, finish)
    surface.tint(drill, 0.03)
    surface.gloss += np.float32(0.5) * (pad - drill)
    surface.height = np.maximum(surface.height, np.float32(0.4) * pad) - np.float32(0.8) * drill
