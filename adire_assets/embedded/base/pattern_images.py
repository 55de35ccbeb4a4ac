"""Draws the patterns of the tiny base model's corpus, as cloth in two colours.

Contract: what an image shows follows from its `Pattern`; only colours, texture, a slight bend, and
where scattered motifs lie vary with the generator passed in.
"""

import numpy as np
from numpy.typing import NDArray

from adire_assets.embedded.base.patterns import (
    COLOURS,
    FIELD_MOTIFS,
    INDIGO_COLOURS,
    NESTED,
    SINGULARS,
    Pattern,
)
from adire_assets.embedded.cloth.drawing import (
    LETTERS,
    MOTIFS,
    TAU,
    Field,
    box,
    coverage,
    creases,
    smooth_noise,
    unit_grid,
    wear,
)

Pixels = NDArray[np.uint8]

BORDER_WIDTH = 0.115  # of the side
HALF = 0.5


def draw_pattern(pattern: Pattern, rng: np.random.Generator, resolution: int = 128) -> Pixels:
    """The pattern as cloth: RGB uint8 [H, W, 3]; what varies with `rng` stands above."""
    x, y = unit_grid(resolution)
    bend = rng.uniform(0.0, 0.004)
    x = x + bend * smooth_noise(rng, resolution, 5)
    y = y + bend * smooth_noise(rng, resolution, 5)
    pixel = 1 / resolution
    # The width of the edges, in parts of the image.
    edge = pixel * (rng.uniform(4, 6) if pattern.finish == "blurred" else 1.3)
    if pattern.border:
        inner = 1 - 2 * BORDER_WIDTH
        u, v = (x - BORDER_WIDTH) / inner, (y - BORDER_WIDTH) / inner
        mask = _mask(pattern, u, v, rng, pixel / inner, edge / inner)
        outside = np.maximum(np.abs(x - HALF), np.abs(y - HALF)) > HALF - BORDER_WIDTH
        mask = np.where(outside, _border(pattern.border, x, y, pixel, edge), mask)
    else:
        mask = _mask(pattern, x, y, rng, pixel, edge)
    named = COLOURS if "indigo" not in (pattern.foreground, pattern.background) else INDIGO_COLOURS
    return paint(
        mask, named[pattern.background], named[pattern.foreground], rng, finish=pattern.finish
    )


def paint(
    mask: Field,
    background: tuple[float, float, float],
    foreground: tuple[float, float, float],
    rng: np.random.Generator,
    finish: str = "",
) -> Pixels:
    """Two colours (RGB in [0, 1]) through a mask [H, W], uneven and slightly woven."""
    resolution = mask.shape[0]
    low = np.asarray(background, np.float32) + rng.uniform(-0.035, 0.035, 3).astype(np.float32)
    high = np.asarray(foreground, np.float32) + rng.uniform(-0.035, 0.035, 3).astype(np.float32)
    if finish == "worn":
        mask = mask * (1 - wear(rng, resolution))
    elif finish == "pale":
        high = low + 0.45 * (high - low)
    colour = low + mask[..., None] * (high - low)
    uneven = 1 + rng.uniform(0.0, 0.09) * smooth_noise(rng, resolution, 4)
    if finish == "folded":
        uneven = uneven * creases(rng, resolution)
    weave = rng.standard_normal(mask.shape, dtype=np.float32) * 0.008
    colour = colour * uneven[..., None] + weave[..., None]
    return (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8)


def _mask(
    pattern: Pattern, x: Field, y: Field, rng: np.random.Generator, pixel: float, edge: float
) -> Field:
    if pattern.motif in FIELD_MOTIFS:
        return _field(pattern, x, y, pixel, edge)
    if pattern.layout in ("large", "corners", "ringed", "scattered"):
        return _placed(pattern, x, y, rng, edge)
    return _lattice(pattern, x, y, pixel, edge)


def _motif(name: str, x: Field, y: Field, radius: float, edge: float, number: int = 0) -> Field:
    """Coverage of a motif of `radius` around the origin; all in parts of the image."""
    letters = list(LETTERS.values())
    if name == "letters":
        motif = letters[number % len(letters)]
    else:
        motif = MOTIFS[SINGULARS.get(name, name)]
    return coverage(motif(x / radius, y / radius) * radius, edge)


def _lattice(pattern: Pattern, x: Field, y: Field, pixel: float, edge: float) -> Field:
    """Motifs in cells, in turn when there are several; rows and grids have lines between them."""
    count = pattern.count
    row = np.floor(y * count)
    shift = 0.5 * (row % 2) if pattern.layout == "shifted" else 0.0
    column = np.floor(x * count + shift)
    local_x = (x * count + shift - column - HALF) / count
    local_y = (y * count - row - HALF) / count
    fill = {"many": 0.84, "rows": 0.76, "shifted": 0.84, "grid": 0.78}[pattern.layout]
    radius = fill * HALF / count
    names = (pattern.motif, *pattern.others)
    step = 1 if len(names) < 4 else 2
    turn = (column + step * row).astype(int) % len(names)
    # Letters differ from cell to cell; everything else is the same motif wherever it comes.
    letter = ((column + 2 * row).astype(int)) % len(LETTERS)
    mask = np.zeros_like(x)
    for place, name in enumerate(names):
        if name == "letters":
            for number in range(len(LETTERS)):
                drawn = _motif(name, local_x, local_y, radius, edge, number)
                mask = np.where((turn == place) & (letter == number), drawn, mask)
        else:
            mask = np.where(turn == place, _motif(name, local_x, local_y, radius, edge), mask)
    line = 1.1 * pixel
    if pattern.layout == "rows":
        mask = np.maximum(mask, coverage(HALF / count - np.abs(local_y) - line, edge))
    if pattern.layout == "grid":
        wall = HALF / count - np.maximum(np.abs(local_x), np.abs(local_y))
        mask = np.maximum(mask, coverage(wall - line, edge))
    return mask


def _placed(pattern: Pattern, x: Field, y: Field, rng: np.random.Generator, edge: float) -> Field:
    """One large motif, alone or among small ones; or motifs scattered."""
    places: list[tuple[str, float, float, float]] = []  # motif, centre, radius
    if pattern.layout == "large":
        places.append((pattern.motif, HALF, HALF, 0.44))
    elif pattern.layout == "corners":
        places.append((pattern.motif, HALF, HALF, 0.32))
        places += [(pattern.others[0], u, v, 0.11) for u in (0.13, 0.87) for v in (0.13, 0.87)]
    elif pattern.layout == "ringed":
        places.append((pattern.motif, HALF, HALF, 0.25))
        for turn in np.arange(10) * TAU / 10:
            u, v = HALF + 0.39 * np.sin(turn), HALF - 0.39 * np.cos(turn)
            places.append((pattern.others[0], float(u), float(v), 0.095))
    else:
        for _ in range(40):
            u, v, radius = (
                float(value) for value in rng.uniform((0.1, 0.1, 0.1), (0.9, 0.9, 0.17))
            )
            if all(np.hypot(u - a, v - b) > radius + r + 0.015 for _, a, b, r in places):
                places.append((pattern.motif, u, v, radius))
    mask = np.zeros_like(x)
    for number, (name, u, v, radius) in enumerate(places):
        # Only the square around the motif is touched.
        near = (np.abs(x - u) < radius * 1.15) & (np.abs(y - v) < radius * 1.15)
        drawn = _motif(name, x[near] - u, y[near] - v, radius, edge, number + 3)
        mask[near] = np.maximum(mask[near], drawn)
    return mask


def _field(pattern: Pattern, x: Field, y: Field, pixel: float, edge: float) -> Field:
    count, motif = pattern.count, pattern.motif
    band = edge * count  # the edge in units of a band
    along, across = {
        "vertical": (y, x),
        "diagonal": ((x - y) * 0.7071, (x + y) * 0.7071),
    }.get(pattern.layout, (x, y))
    if motif == "stripes":
        return coverage(np.abs(across * count % 1 - HALF) - 0.25, band)
    if motif == "checks":
        cells = np.sin(TAU * x * count / 2) * np.sin(TAU * y * count / 2)
        return coverage(-cells * 0.16, band)
    if motif == "grid lines":
        lines = np.maximum(np.abs(x * count % 1 - HALF), np.abs(y * count % 1 - HALF))
        return coverage(0.37 - lines, band)
    if motif == "lattice":
        first, second = (x + y) * count * 0.5, (x - y) * count * 0.5
        lines = np.maximum(np.abs(first % 1 - HALF), np.abs(second % 1 - HALF))
        return coverage(0.37 - lines, band)
    if motif == "rays":
        angle = np.arctan2(x - HALF, HALF - y) * count * 2 / TAU
        radius = np.hypot(x - HALF, y - HALF)
        # An edge of constant width is a wider angle nearer to the middle.
        width = edge * count * 2 / TAU / np.maximum(radius, pixel)
        return np.clip(HALF - (np.abs(angle % 1 - HALF) - 0.25) / width, 0, 1)
    if motif == "scales":
        row = np.floor(y * count)
        local = (x * count + 0.5 * (row % 2)) % 1 - HALF
        arc = np.abs(np.hypot(local, y * count - row) - 0.42)
        return coverage(arc - 0.11, band)
    line = max(0.13, 1.1 * pixel * count)
    if motif in NESTED:
        u, v = np.abs(x - HALF), np.abs(y - HALF)
        shape = motif.split()[1]
        radius = {"squares": np.maximum(u, v), "diamonds": (u + v) * 0.75}.get(
            shape, np.hypot(u, v)
        )
        rings = np.abs(radius * count % 1 - HALF)
        if motif.startswith("nested"):
            return coverage(rings - 0.22, band)
        number = np.floor(radius * count)
        angle = np.arctan2(y - HALF, x - HALF) / TAU
        dashes = np.maximum(np.round((number + HALF) * 54 / count), 3)
        return coverage(rings - line, band) * _dashes(angle * dashes)
    if motif.endswith("waves"):
        across = across + 0.06 * np.sin(TAU * along * 2)
    elif motif.endswith("zigzag"):
        across = across + np.abs((along * 4) % 1 - HALF) * 0.22
    distance = np.abs(across * count % 1 - HALF)
    if motif.startswith("dashed"):
        # Neighbouring seams are sewn separately: their stitches do not line up.
        turn = 0.5 * (np.floor(across * count) % 2)
        return coverage(distance - line, band) * _dashes(along * 10 + turn)
    if motif == "dotted lines":
        dots = np.hypot(across * count % 1 - HALF, along * count % 1 - HALF)
        return coverage(dots - 0.27, band)
    return coverage(distance - 0.22, band)


def _dashes(phase: Field) -> Field:
    """Stitches along a line, one for each whole number of `phase`, [H, W] in [0, 1]."""
    return np.clip((np.cos(TAU * phase) + 0.3) * 2.5, 0, 1)


def _border(kind: str, x: Field, y: Field, pixel: float, edge: float) -> Field:
    """Marks along the rim, with a line on its inner side."""
    depth = HALF - np.maximum(np.abs(x - HALF), np.abs(y - HALF))  # from the outer edge inwards
    along = np.where(np.abs(x - HALF) > np.abs(y - HALF), y, x)
    line = coverage(np.abs(depth - BORDER_WIDTH + 2 * pixel) - 1.2 * pixel, edge)
    middle, period = BORDER_WIDTH * 0.45, 1 / 12
    local = (along / period % 1 - HALF) * period
    if kind == "dotted":
        marks = coverage(np.hypot(local, depth - middle) - 0.026, edge)
    elif kind == "striped":
        marks = coverage(box(local, depth - middle, 0.018, 0.035), edge)
    elif kind == "zigzag":
        marks = coverage(np.abs(depth - middle - np.abs(local) * 1.4 + 0.028) - 0.014, edge)
    else:
        marks = coverage(np.abs(depth - middle) - 0.026, edge)
    return np.maximum(line, marks)
