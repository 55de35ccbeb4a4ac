"""Eleko: a grid of squares painted in cassava paste with a feather, a motif in each.

What makes it eleko is the paste: lines that swell and thin out, no square like its neighbour, and
cracks through which the dye came. Contract: `draw_eleko` gives a resist mask and the words for it;
pure numpy, no state but the generator.
"""

import numpy as np
from numpy.typing import NDArray

from adire_assets.embedded.cloth.drawing import LETTERS, MOTIFS, Field, box, coverage, smooth_noise

NUMBER_WORDS = {2: "four", 3: "nine", 4: "sixteen"}
PLURALS = {"circle": "circles", "ring": "rings", "star": "stars", "flower": "flowers"}
PLURALS |= {"sun": "suns", "spiral": "spirals", "triangle": "triangles", "diamond": "diamonds"}
PLURALS |= {"leaf": "leaves", "square": "squares", "cross": "crosses", "moon": "moons"}
PLURALS |= {"comb": "combs", "fish": "fish", "wheel": "wheels"}

PAINTED = (*MOTIFS, "letters")
SMALL = tuple(name for name in PAINTED if name not in ("wheel", "comb", "spiral", "rings"))
"""Motifs that stay plain in a square of a quarter of the cloth's side."""

LAYOUTS = {"grid": 0.66, "bordered grid": 0.1, "centre": 0.14, "bands": 0.1}
"""How often the cloth is divided this way."""
BORDERS = ("dots", "lines", "zigzag", "crosses")
FRAMES = ("single", "double", "dotted")


def draw_eleko(x: Field, y: Field, rng: np.random.Generator) -> tuple[Field, str]:
    """Resist of painted paste, [H, W], and words; `x`, `y` [H, W] are in parts of the image."""
    resolution = x.shape[0]
    pixel = 1.0 / resolution
    layout = str(rng.choice(list(LAYOUTS), p=list(LAYOUTS.values())))
    # A feather full of paste paints broad, an empty one thin.
    swell = 0.0032 * smooth_noise(rng, resolution, 12)
    if layout == "grid":
        cells = int(rng.choice([2, 3, 4], p=[0.4, 0.38, 0.22]))
        frames = FRAMES if cells < 4 else FRAMES[:2]
        most = {2: 4, 3: 3, 4: 2}[cells]
        if cells > 2 and rng.random() < 0.2:
            most = cells**2
        distance, words = _grid(x, y, cells, most, frames, rng)
    elif layout == "bordered grid":
        margin = 0.13
        inner_x, inner_y = ((axis - margin) / (1 - 2 * margin) for axis in (x, y))
        cells = int(rng.choice([2, 3], p=[0.6, 0.4]))
        distance, words = _grid(inner_x, inner_y, cells, 2, FRAMES[:2], rng)
        marks, name = _border(x, y, margin, rng)
        inside = box(x - 0.5, y - 0.5, 0.5 - margin, 0.5 - margin)
        distance = np.minimum(np.maximum(distance * (1 - 2 * margin), inside - 0.01), marks)
        words += f" and a border of {name}"
    elif layout == "centre":
        distance, words = _centre(x, y, rng)
    else:
        distance, words = _bands(x, y, rng)
    painted = coverage(distance + swell, max(0.012, 1.4 * pixel))
    return _paste(painted, rng), words


def listing(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def plural(name: str) -> str:
    """A motif in the words of a caption; those of many parts are plural already."""
    return PLURALS.get(name, name)


def _paste(painted: Field, rng: np.random.Generator) -> Field:
    """What painted cloth resists once the paste has dried, cracked and stood in the vat."""
    resolution = painted.shape[0]
    patches = np.clip(0.5 + 0.5 * smooth_noise(rng, resolution, 4), 0, 1)
    cracks = np.zeros_like(painted)
    for knots in (9, 13):
        vein = np.abs(smooth_noise(rng, resolution, knots))
        cracks = np.maximum(cracks, np.exp(-((vein / 0.085) ** 2)))
    thin = 1 - 0.09 * np.abs(smooth_noise(rng, resolution, 32))
    return painted * thin * (1 - rng.uniform(0.15, 0.6) * cracks * patches)


def _motif(name: str, x: Field, y: Field, letter: str) -> Field:
    """Distance to a motif in its square's coordinates [-1, 1]."""
    return LETTERS[letter](x, y) if name == "letters" else MOTIFS[name](x, y)


def _grid(
    x: Field,
    y: Field,
    cells: int,
    most: int,
    frames: tuple[str, ...],
    rng: np.random.Generator,
) -> tuple[Field, str]:
    """Distance to a grid of `cells` by `cells` squares and its motifs, in parts of the image.

    There are up to `most` motifs; as many as there are squares give each square its own.
    """
    choice = rng.permutation(PAINTED if cells < 4 else SMALL)
    each = most == cells**2 and cells > 2
    names = [str(name) for name in choice[: most if each else int(rng.integers(1, most + 1))]]
    if {"ring", "rings"} <= set(names) and not each:  # the same word for both
        names.remove("rings")
    frame = str(rng.choice(frames))
    column, row = (np.clip(np.floor(axis * cells), 0, cells - 1) for axis in (x, y))
    local_x, local_y = (x * cells - column) * 2 - 1, (y * cells - row) * 2 - 1
    half = 0.5 / cells  # of a square's side, in parts of the image

    edge = np.minimum(1 - np.abs(local_x), 1 - np.abs(local_y)) * half
    width = 0.011 if cells == 4 else 0.014
    if frame == "single":
        lines, room = edge - width, width
    else:
        gutter = 0.022 if cells == 4 else 0.026
        lines, room = np.abs(edge - gutter) - 0.6 * width, gutter + 0.6 * width
        if frame == "dotted":  # dots in the gutter between two lines
            along = np.where(np.abs(local_x) > np.abs(local_y), local_y, local_x) * half
            step = 2 * half / round(2 * half / 0.062)
            dots = np.hypot((along + half) % step - step / 2, edge) - 0.0135
            lines = np.minimum(np.abs(edge - 0.034) - 0.008, dots)
            room = 0.043

    # Each square is painted anew: a little turned, aside, larger or smaller.
    where = (row.astype(np.intp), column.astype(np.intp))
    turn = rng.normal(0, 0.05, (cells, cells)).astype(np.float32)[where]
    aside = rng.normal(0, 0.025, (2, cells, cells)).astype(np.float32)
    scale = (1 - (room + 0.015) / half) * rng.uniform(0.92, 1.0, (cells, cells)).astype(np.float32)
    scale = scale[where]
    motif_x = (local_x + turn * local_y - aside[0][where]) / scale
    motif_y = (local_y - turn * local_x - aside[1][where]) / scale

    which = _arrangement(cells, len(names), rng)[where]
    letters = [str(letter) for letter in rng.permutation(list(LETTERS))]
    painted = np.full_like(x, np.inf)
    for place, name in enumerate(names):
        own = which == place
        if name == "letters":
            pick = (row * 3 + column + rng.integers(4)).astype(np.intp) % len(letters)
            distance = np.choose(pick, [LETTERS[letter](motif_x, motif_y) for letter in letters])
        else:
            distance = MOTIFS[name](motif_x, motif_y)
        if name not in ("lines", "zigzag", "checks") and rng.random() < 0.25:
            # The square is filled with paste and the motif left to the dye.
            ground = np.maximum(np.abs(local_x), np.abs(local_y)) - (1 - (room + 0.02) / half)
            distance = np.maximum(ground, -distance)
        painted = np.where(own, distance * scale * half, painted)
    kind = "dotted grid" if frame == "dotted" else "grid"
    motifs = listing([plural(name) for name in names])
    words = f"painted {kind} of {NUMBER_WORDS[cells]} squares"
    words += ", each with another motif" if each else f" with {motifs}"
    return np.minimum(lines, painted), words


def _arrangement(cells: int, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Which of `count` motifs each square gets, int [cells, cells]; each is there."""
    row, column = np.indices((cells, cells))
    if count == cells**2:
        return rng.permutation(count).reshape(cells, cells)
    way = str(rng.choice(["checkered", "rows", "columns"]))
    if way == "rows" and count <= cells:
        return row % count
    if way == "columns" and count <= cells:
        return column % count
    return (row * (2 if count == 4 else 1) + column) % count


def _marks(name: str, along: Field, across: Field, half: float) -> Field:
    """Distance to a row of small marks along a band of half width `half`, in parts of the image."""
    step = 1 / round(1 / (2.2 * half))
    local = along % step - step / 2
    if name == "dots":
        return np.hypot(local, across) - 0.5 * half
    if name == "lines":
        thin = step / 2
        return box(along % thin - thin / 2, across, 0.0105, 0.72 * half)
    if name == "crosses":
        return np.minimum(
            box(local, across, 0.7 * half, 0.01), box(local, across, 0.01, 0.7 * half)
        )
    return np.abs(across + (np.abs(local) - step / 4) * 4 / step * 0.6 * half) * 0.66 - 0.009


def _border(x: Field, y: Field, margin: float, rng: np.random.Generator) -> tuple[Field, str]:
    """Distance to a border of marks along the four sides, between two lines, and its name."""
    name = str(rng.choice(BORDERS))
    local_x, local_y = x - 0.5, y - 0.5
    half = margin / 2
    sides = np.full_like(x, np.inf)
    for along, across in ((local_x, np.abs(local_y)), (local_y, np.abs(local_x))):
        marks = _marks(name, along + 0.5, across - 0.5 + half, 0.75 * half)
        sides = np.minimum(sides, np.maximum(marks, np.abs(along) - (0.5 - margin)))
    corner = np.hypot(np.abs(local_x) - 0.5 + half, np.abs(local_y) - 0.5 + half)
    sides = np.minimum(sides, np.abs(corner - 0.5 * half) - 0.011)
    line = np.abs(np.maximum(np.abs(local_x), np.abs(local_y)) - (0.5 - margin)) - 0.011
    return np.minimum(sides, line), name


def _centre(x: Field, y: Field, rng: np.random.Generator) -> tuple[Field, str]:
    """A large motif in a square, inside one or two borders of marks."""
    name = str(
        rng.choice([motif for motif in PAINTED if motif not in ("rings", "lines", "letters")])
    )
    margin = rng.uniform(0.14, 0.17)
    border, marks = _border(x, y, margin, rng)
    size = 0.5 - margin - 0.05
    lean = rng.normal(0, 0.05)
    local_x, local_y = (x - 0.5) / size, (y - 0.5) / size
    distance = MOTIFS[name](local_x + lean * local_y, local_y - lean * local_x) * size
    one = name if name in ("zigzag", "checks") else f"one large {name}"
    return np.minimum(border, distance), f"painted square with {one} and a border of {marks}"


def _bands(x: Field, y: Field, rng: np.random.Generator) -> tuple[Field, str]:
    """Broad bands of motifs with narrow bands of marks between them."""
    upright = bool(rng.random() < 0.4)
    along, across = (y, x) if upright else (x, y)
    first, second = (str(name) for name in rng.permutation(SMALL)[:2])
    marks = str(rng.choice(BORDERS))
    broad, narrow = 0.24, 0.14
    period = broad + narrow
    shifted = across + rng.uniform(0.0, 0.1)
    band, place = np.floor(shifted / period), shifted % period
    count = 4
    half = broad / 2
    local_along = (along * count % 1 - 0.5) / count
    local_across = place - half
    letter = str(rng.choice(list(LETTERS)))
    u, v = (local_across, local_along) if upright else (local_along, local_across)
    scale = 0.86 * half
    motifs = [_motif(name, u / scale, v / scale, letter) * scale for name in (first, second)]
    painted = np.where(band % 2 < 0.5, motifs[0], motifs[1])
    painted = np.where(place < broad, painted, np.inf)
    rail = np.minimum(np.abs(place - broad), np.abs(place - period)) - 0.01
    rail = np.minimum(rail, np.abs(place) - 0.01)
    small = _marks(marks, along, place - broad - narrow / 2, 0.62 * narrow / 2)
    small = np.where(place >= broad, small, np.inf)
    words = f"painted {'vertical' if upright else 'horizontal'} bands of "
    words += listing([plural(first), plural(second), "small " + marks])
    return np.minimum(np.minimum(painted, rail), small), words
