"""Signed distances of motifs and the small tools that turn them into painted cloth.

Shared by the sample images (drawn adire) and by the corpus of the tiny base model, so that a star
is the same star in both. Contract: pure numpy, float32 arrays, no state but the generator passed
in. Distances are negative inside a motif and measured in the units of the coordinates given.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

TAU = 2.0 * np.pi


@cache
def unit_grid(resolution: int) -> tuple[Field, Field]:
    """Pixel centres of a square image as (x right, y down), each [H, W] float32 in (0, 1)."""
    centres = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    x, y = np.meshgrid(centres, centres)
    return x.astype(np.float32), y.astype(np.float32)


def coverage(distance: Field, softness: float) -> Field:
    """How much of each pixel lies inside, [H, W] in [0, 1]; `softness` is the width of the edge in
    the units of `distance` (one pixel gives antialiasing)."""
    return np.clip(0.5 - distance / softness, 0.0, 1.0)


@cache
def _interpolation(resolution: int, knots: int) -> Field:
    """Smooth (raised cosine) interpolation from `knots` values to `resolution` pixels."""
    position = np.linspace(0, knots - 1, resolution, dtype=np.float32)
    left = np.minimum(position.astype(int), knots - 2)
    weight = 0.5 - 0.5 * np.cos(np.pi * (position - left))
    matrix = np.zeros((resolution, knots), np.float32)
    matrix[np.arange(resolution), left] = 1 - weight
    matrix[np.arange(resolution), left + 1] = weight
    return matrix


def smooth_noise(rng: np.random.Generator, resolution: int, knots: int) -> Field:
    """Slowly varying noise, [H, W] float32, about standard normal; `knots` >= 2 per side."""
    matrix = _interpolation(resolution, knots)
    values = rng.standard_normal((knots, knots), dtype=np.float32)
    return matrix @ values @ matrix.T


def creases(rng: np.random.Generator, resolution: int) -> Field:
    """Light on the folds of cloth, [H, W] around 1 (0.75 to 1.2): one or two creases each way."""
    x, y = unit_grid(resolution)
    light = np.ones((resolution, resolution), np.float32)
    for axis in (x, y):
        count = int(rng.integers(1, 3))
        for place in range(count):
            middle = (place + 0.5) / count + rng.normal(0, 0.05)
            slant = rng.normal(0, 0.04) * ((y if axis is x else x) - 0.5)
            distance = (axis - middle + slant) / rng.uniform(0.02, 0.035)
            # A ridge is lit on one side and in shadow on the other.
            light += rng.choice([-1, 1]) * 0.3 * distance * np.exp(-(distance**2))
    return np.clip(light, 0.75, 1.2)


def wear(rng: np.random.Generator, resolution: int) -> Field:
    """How far cloth is rubbed bare, [H, W] in [0, 1]: patches that are broken up by the weave."""
    patches = smooth_noise(rng, resolution, 5) - 0.35
    grain = smooth_noise(rng, resolution, resolution // 3)
    return np.clip(patches * 0.8 + 0.25 * grain, 0, 0.75)


def fold(x: Field, y: Field, sectors: int, phase: float = 0.0) -> tuple[Field, Field]:
    """Polar fold into one of `sectors` mirrored sectors: coordinates (along, across >= 0) around
    the axis of the nearest sector; the first axis points up."""
    angle = np.arctan2(x, -y) + phase
    step = TAU / sectors
    local = np.abs((angle + step / 2) % step - step / 2)
    radius = np.hypot(x, y)
    return radius * np.cos(local), radius * np.sin(local)


def box(x: Field, y: Field, half_width: float, half_height: float) -> Field:
    """Distance to a centred rectangle (Chebyshev, exact inside and along the sides)."""
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def star(x: Field, y: Field, points: int = 5, outer: float = 0.95, inner: float = 0.4) -> Field:
    """Distance to a star; `inner` = outer * cos(pi / points) makes it a regular polygon."""
    along, across = fold(x, y, points)
    half = np.pi / points
    edge_x, edge_y = inner * np.cos(half) - outer, inner * np.sin(half)
    length = float(np.hypot(edge_x, edge_y))
    return ((along - outer) * edge_y - across * edge_x) / length


def _circle(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - 0.72


def _ring(x: Field, y: Field) -> Field:
    return np.abs(np.hypot(x, y) - 0.64) - 0.17


def _rings(x: Field, y: Field) -> Field:
    radius = np.hypot(x, y)
    bands = np.abs((radius + 0.11) % 0.38 - 0.19) - 0.1
    return np.maximum(-bands, radius - 0.93)


def _flower(x: Field, y: Field) -> Field:
    along, across = fold(x, y, 6)
    petal = (np.hypot((along - 0.62) / 0.34, across / 0.25) - 1) * 0.27
    return np.minimum(petal, np.hypot(x, y) - 0.2)


def _sun(x: Field, y: Field) -> Field:
    along, across = fold(x, y, 10)
    return np.minimum(box(along - 0.76, across, 0.2, 0.085), np.hypot(x, y) - 0.44)


def _spiral(x: Field, y: Field) -> Field:
    radius = np.hypot(x, y)
    turn = np.arctan2(y, x) / TAU
    pitch = 0.4
    arm = np.abs((radius / pitch - turn) % 1 - 0.5) * pitch - 0.105
    return np.maximum(arm, radius - 0.93)


def _triangle(x: Field, y: Field) -> Field:
    return star(x, y - 0.15, 3, 0.98, 0.49)


def _diamond(x: Field, y: Field) -> Field:
    return (np.abs(x) / 0.66 + np.abs(y) / 0.95 - 1) * 0.54


def _leaf(x: Field, y: Field) -> Field:
    blade = np.hypot(np.abs(x) + 0.62, y) - 1.13
    veins = np.abs((y + 0.9 * np.abs(x)) % 0.44 - 0.22) - 0.05
    return np.maximum(blade, np.maximum(0.06 - np.abs(x), -veins))


def _square(x: Field, y: Field) -> Field:
    return box(x, y, 0.68, 0.68)


def _cross(x: Field, y: Field) -> Field:
    return np.minimum(box(x, y, 0.85, 0.26), box(x, y, 0.26, 0.85))


def _lines(x: Field, y: Field) -> Field:
    bands = np.abs((y + 0.9) % 0.45 - 0.225) - 0.1
    return np.maximum(bands, box(x, y, 0.85, 0.9))


def _zigzag(x: Field, y: Field) -> Field:
    shift = np.abs((x + 0.8) % 0.8 - 0.4)
    bands = np.abs((y + shift + 0.3) % 0.6 - 0.3) * 0.8 - 0.1
    return np.maximum(bands, box(x, y, 0.88, 0.88))


def _checks(x: Field, y: Field) -> Field:
    cells = np.sin(x * np.pi / 0.44) * np.sin(y * np.pi / 0.44) * 0.14
    return np.maximum(-cells, box(x, y, 0.88, 0.88))


def _moon(x: Field, y: Field) -> Field:
    return np.maximum(np.hypot(x + 0.06, y) - 0.82, 0.64 - np.hypot(x - 0.3, y))


def _comb(x: Field, y: Field) -> Field:
    teeth = np.abs((x + 0.8) % 0.32 - 0.16) - 0.075
    teeth = np.maximum(teeth, box(x, y - 0.22, 0.8, 0.62))
    return np.minimum(teeth, box(x, y + 0.55, 0.8, 0.24))


def _fish(x: Field, y: Field) -> Field:
    body = np.hypot(x + 0.18, np.abs(y) + 0.38) - 0.82
    tail = np.maximum(x - 0.92, np.abs(y) - 0.95 * (x - 0.36))
    eye = 0.09 - np.hypot(x + 0.55, y + 0.08)
    gill = 0.045 - np.abs(np.hypot(x + 0.95, y) - 0.72)
    return np.minimum(np.maximum(np.maximum(body, eye), gill), tail)


def _wheel(x: Field, y: Field) -> Field:
    along, across = fold(x, y, 8)
    spokes = np.maximum(across - 0.075, along - 0.78)
    rim = np.abs(np.hypot(x, y) - 0.78) - 0.12
    return np.minimum(np.minimum(spokes, rim), np.hypot(x, y) - 0.2)


def _letter_k(x: Field, y: Field) -> Field:
    arm = np.abs(np.abs(y) - 0.95 * (x + 0.28)) * 0.72 - 0.16
    arm = np.maximum(arm, box(x - 0.12, y, 0.58, 0.85))
    return np.minimum(box(x + 0.46, y, 0.16, 0.85), arm)


def _letter_e(x: Field, y: Field) -> Field:
    bars = np.maximum(np.abs((np.abs(y) + 0.345) % 0.69 - 0.345) - 0.145, box(x, y, 0.6, 0.85))
    return np.minimum(box(x + 0.45, y, 0.17, 0.85), bars)


def _letter_o(x: Field, y: Field) -> Field:
    return np.abs(np.hypot(x / 0.78, y) - 0.68) * 0.85 - 0.15


def _letter_a(x: Field, y: Field) -> Field:
    legs = np.abs(np.abs(x) - 0.42 * (y + 0.85)) * 0.92 - 0.15
    bar = box(x, y - 0.28, 0.48, 0.12)
    return np.maximum(np.minimum(legs, bar), np.abs(y) - 0.85)


LETTERS: dict[str, Callable[[Field, Field], Field]] = {
    "K": _letter_k,
    "E": _letter_e,
    "O": _letter_o,
    "A": _letter_a,
}
"""Distance functions of painted letters, in the same coordinates as MOTIFS."""

MOTIFS: dict[str, Callable[[Field, Field], Field]] = {
    "circle": _circle,
    "ring": _ring,
    "rings": _rings,
    "star": star,
    "flower": _flower,
    "sun": _sun,
    "spiral": _spiral,
    "triangle": _triangle,
    "diamond": _diamond,
    "leaf": _leaf,
    "square": _square,
    "cross": _cross,
    "moon": _moon,
    "comb": _comb,
    "fish": _fish,
    "wheel": _wheel,
    "lines": _lines,
    "zigzag": _zigzag,
    "checks": _checks,
}
"""Distance functions of the motifs that fit a cell: coordinates in [-1, 1], y down."""
