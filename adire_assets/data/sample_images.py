"""The sample data of a fresh clone: Nigerian adire cloth, drawn by a seeded program.

Adire is indigo resist-dye of the Yoruba. Three techniques are drawn: oniko (cloth tied into
circles), alabere (stitched lines) and eleko (a grid painted in cassava paste). Contract: the same
arguments give the same bytes; no file is read; `draw_sample_data` writes an HF imagefolder
(`metadata.csv` with `file_name,text` beside the PNGs). These are drawings, not photographs.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adire_assets.data.drawing import (
    MOTIFS,
    TAU,
    Field,
    box,
    coverage,
    smooth_noise,
    unit_grid,
)

TECHNIQUES = ("oniko", "alabere", "eleko")
CAPTION_PREFIX = "a photo in nigerian_adire_style, "
MINIMUM_HASH_DISTANCE = 8  # bits of a 64-bit perceptual hash; nearer pairs are redrawn
CAPTION_SHARE = 24  # one caption belongs to at most one image in so many (and one more)
NUMBER_WORDS = {2: "four", 3: "nine", 4: "sixteen"}
PLURALS = {"circle": "circles", "ring": "rings", "star": "stars", "flower": "flowers"}
PLURALS |= {"sun": "suns", "spiral": "spirals", "triangle": "triangles", "diamond": "diamonds"}
PLURALS |= {"leaf": "leaves", "square": "squares", "cross": "crosses"}
ELEKO_MOTIFS = tuple(MOTIFS)


def draw_sample_data(folder: Path, count: int = 72, seed: int = 0, resolution: int = 64) -> None:
    """Write `count` square RGB PNGs, the techniques in turn, and their `metadata.csv`.

    No two images are near duplicates (64-bit perceptual hash) and no caption dominates: an image
    that comes out too near to an earlier one, or with a caption that is used up, is redrawn from
    the next seed, so the outcome depends on the arguments only.
    """
    import imagehash  # scipy comes with it: too heavy for everyone who only imports this module

    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str]] = []
    hashes: list[imagehash.ImageHash] = []
    for index in range(count):
        technique = TECHNIQUES[index % len(TECHNIQUES)]
        for attempt in range(100):
            rng = np.random.default_rng([seed, index, attempt])
            pixels, caption = draw_adire(technique, rng, resolution)
            image = Image.fromarray(pixels)
            fingerprint = imagehash.phash(image)
            used = sum(text == caption for _, text in rows)
            distinct = all(fingerprint - other >= MINIMUM_HASH_DISTANCE for other in hashes)
            if distinct and used <= count // CAPTION_SHARE:
                break
        hashes.append(fingerprint)
        file_name = f"{technique}-{index // len(TECHNIQUES) + 1:02d}.png"
        image.save(folder / file_name, optimize=True)
        rows.append((file_name, caption))
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file_name", "text"))
        writer.writerows(sorted(rows))


def draw_adire(
    technique: str, rng: np.random.Generator, resolution: int = 64
) -> tuple[NDArray[np.uint8], str]:
    """One piece of cloth: RGB uint8 [H, W, 3] and its caption. `technique` is in TECHNIQUES."""
    resist, description = draw_resist(technique, rng, resolution)
    return dye_indigo(resist, rng), f"{CAPTION_PREFIX}{description}, indigo cloth"


def draw_resist(
    technique: str, rng: np.random.Generator, resolution: int = 64
) -> tuple[Field, str]:
    """Where the dye was kept off, [H, W] in [0, 1] (1 = undyed), and words for what was drawn."""
    x, y = unit_grid(resolution)
    # Cloth is never flat: what was tied, stitched or painted is bent a little.
    bend = rng.uniform(0.003, 0.009)
    x = x + bend * smooth_noise(rng, resolution, 6)
    y = y + bend * smooth_noise(rng, resolution, 6)
    draw = {"oniko": _draw_oniko, "alabere": _draw_alabere, "eleko": _draw_eleko}[technique]
    resist, description = draw(x, y, rng, 1.0 / resolution)
    return np.clip(resist, 0, 1).astype(np.float32), f"{technique} {description}"


def dye_indigo(resist: Field, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Dye a resist mask [H, W]: uneven indigo ground, off-white marks, a slight weave."""
    resolution = resist.shape[0]
    # From a fresh vat almost black-blue, from a tired one a clear blue; a little green or violet.
    depth = rng.uniform(0, 1)
    ground = np.array((0.05, 0.08, 0.22)) * (1 - depth) + np.array((0.12, 0.19, 0.42)) * depth
    ground = ground + rng.uniform(-0.015, 0.02, 3)
    middle = np.array((0.27, 0.38, 0.63)) + rng.uniform(-0.04, 0.04, 3)
    paper = np.array((0.93, 0.91, 0.85)) + rng.uniform(-0.04, 0.03, 3)
    unevenness = rng.uniform(0.02, 0.07)
    level = resist * (0.93 + 0.05 * smooth_noise(rng, resolution, 5))
    level = level + unevenness * (1 - resist) * (0.8 + smooth_noise(rng, resolution, 4))
    level = np.clip(level, 0, 1)[..., None]
    # Half-dyed cotton is a clear blue, not a grey between navy and white.
    low, high = np.clip(level / 0.45, 0, 1), np.clip((level - 0.45) / 0.55, 0, 1)
    colour = ground + low * (middle - ground) + high * (paper - middle)
    rows = np.arange(resolution)
    weave = ((rows[:, None] + rows[None, :]) % 2 - 0.5).astype(np.float32) * 0.016
    weave = weave + rng.standard_normal(resist.shape, dtype=np.float32) * 0.009
    return (np.clip(colour + weave[..., None], 0, 1) * 255 + 0.5).astype(np.uint8)


def _around(rng: np.random.Generator, angle: Field, strength: float) -> Field:
    """A periodic wobble over the angle, [H, W]: the unevenness of a hand-tied thread."""
    wobble = np.zeros_like(angle)
    for harmonic in (2, 3, 5, 7):
        wobble += np.cos(harmonic * angle + rng.uniform(0, TAU)) / harmonic
    return strength * wobble


def _tied_circle(
    x: Field, y: Field, rng: np.random.Generator, pixel: float, rings: int, rays: int
) -> Field:
    """One tied circle of unit radius: rings of thread with soft edges, crossed by folds."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    radius = radius * (1 + _around(rng, angle, 0.06))
    folds = 0.5 + 0.5 * np.cos(rays * angle + _around(rng, angle, 1.2))
    width = max(0.3 / (rings + 0.6), 0.75 * pixel)
    resist = 1.0 * np.exp(-((radius / max(0.16, 1.1 * pixel)) ** 2))
    for place in range(rings):
        middle = 0.36 + 0.52 * (place + 0.5) / rings if rings > 1 else 0.72
        thread = np.exp(-(((radius - middle) / width) ** 2 * 1.6))
        resist = np.maximum(resist, thread * (0.62 + 0.38 * folds))
    # Folds of the cloth run from the knot outwards and end in points.
    reach = np.clip((1.12 - radius) / 0.3, 0, 1) * np.clip((radius - 0.1) / 0.2, 0, 1)
    return np.maximum(resist, 0.75 * folds**5 * reach * (0.45 + 0.4 * (radius > 0.4)))


def _draw_oniko(x: Field, y: Field, rng: np.random.Generator, pixel: float) -> tuple[Field, str]:
    layouts = ("rows", "rows", "scattered", "scattered", "large", "ringed", "among small", "pairs")
    layout = str(rng.choice(layouts))
    circles: list[tuple[float, float, float]] = []  # x, y, radius in parts of the image
    if layout == "rows":
        across = int(rng.integers(2, 6))
        step = 1 / across
        brick = bool(rng.random() < 0.4)
        for row in range(across + 1):
            for column in range(-1, across + 1):
                shift = 0.5 * (row % 2) if brick else 0.0
                centre = ((column + 0.5 + shift) * step, (row + 0.5) * step)
                circles.append((*centre, step * rng.uniform(0.38, 0.46)))
        kind = "small tied circles" if across > 3 else "tied circles"
        words = f"{kind} in rows" if not brick else f"{kind} in shifted rows"
    elif layout == "scattered":
        for _ in range(60):
            radius = rng.uniform(0.08, 0.2)
            place_x, place_y = (float(value) for value in rng.uniform(0.02, 0.98, 2))
            if all(np.hypot(place_x - u, place_y - v) > radius + r + 0.02 for u, v, r in circles):
                circles.append((place_x, place_y, radius))
        words = "tied circles scattered"
    elif layout == "large":
        circles.append((0.5, 0.5, rng.uniform(0.4, 0.52)))
        words = "one large tied circle with rings"
    elif layout == "ringed":
        circles.append((0.5, 0.5, rng.uniform(0.18, 0.24)))
        number, turn = int(rng.integers(6, 10)), rng.uniform(0, TAU)
        for place in range(number):
            angle = turn + TAU * place / number
            circles.append((0.5 + 0.37 * np.cos(angle), 0.5 + 0.37 * np.sin(angle), 0.1))
        words = "one tied circle inside a ring of small circles"
    elif layout == "pairs":
        turn = rng.choice([-0.24, 0.24])
        large, small = rng.uniform(0.2, 0.25, 2), rng.uniform(0.08, 0.13, 2)
        circles += [(0.5 - turn, 0.26, large[0]), (0.5 + turn, 0.74, large[1])]
        circles += [(0.5 + turn, 0.22, small[0]), (0.5 - turn, 0.78, small[1])]
        words = "two large tied circles and two small circles"
    else:
        circles.append((0.5, 0.5, rng.uniform(0.3, 0.36)))
        for corner_x in (0.12, 0.88):
            circles += [(corner_x, corner_y, rng.uniform(0.1, 0.14)) for corner_y in (0.12, 0.88)]
        words = "one large tied circle and four small circles"
    rays = int(rng.integers(8, 17))
    ring_spacing = rng.uniform(0.07, 0.15)
    resist = np.zeros_like(x)
    for centre_x, centre_y, radius in circles:
        centre_x += rng.normal(0, 0.006)
        centre_y += rng.normal(0, 0.006)
        rings = int(np.clip(round(radius / ring_spacing), 1, 5))
        local_rays = rays if radius > 0.16 else min(rays, 10)
        circle = _tied_circle(
            (x - centre_x) / radius, (y - centre_y) / radius, rng, pixel / radius, rings, local_rays
        )
        resist = np.maximum(resist, circle * rng.uniform(0.88, 1.0))
    if layout in ("large", "rows") and rays > 12:
        words += " and rays"
    return resist, words


def _stitches(
    distance: Field, along: Field, rng: np.random.Generator, pixel: float, stitch: float
) -> Field:
    """Resist of a stitched seam: dashes with a pale pucker on both sides.

    `distance` is the unsigned distance to the seam, `along` the length on it, both in parts of the
    image; `stitch` is the length of a stitch with its gap.
    """
    phase = along / stitch + rng.uniform()
    dash = np.clip((np.cos(TAU * phase) + 0.35) * 2.2, 0, 1)
    thread = coverage(distance - 0.9 * pixel, 1.6 * pixel) * (0.12 + 0.88 * dash)
    pucker = 0.34 * np.exp(-((distance / (2.6 * pixel)) ** 2)) * (0.55 + 0.45 * dash)
    return np.maximum(thread, pucker)


def _draw_alabere(x: Field, y: Field, rng: np.random.Generator, pixel: float) -> tuple[Field, str]:
    layout = rng.choice(["stripes", "zigzag", "waves", "concentric", "leaf", "leaf", "panels"])
    stitch = rng.uniform(0.06, 0.085)
    spacing = rng.uniform(0.085, 0.17)
    if layout in ("stripes", "zigzag", "waves"):
        turn = float(rng.choice([0, 90, 45, -45])) if layout == "stripes" else rng.choice([0, 90])
        sine, cosine = np.sin(np.deg2rad(turn)), np.cos(np.deg2rad(turn))
        along, across = cosine * x + sine * y, cosine * y - sine * x
        if layout == "zigzag":
            period = rng.uniform(0.25, 0.5)
            across = (across + np.abs((along % period) - period / 2) * 1.3) * 0.75
        elif layout == "waves":
            period = rng.uniform(0.35, 0.7)
            across = across + 0.07 * np.sin(TAU * along / period)
        offset = rng.uniform(0, spacing)
        seam = (across + offset) % spacing
        if rng.random() < 0.45:  # seams in pairs, with room between
            resist = np.zeros_like(x)
            wide = spacing * 1.7
            place = (across + offset) % wide
            for middle in (0.32 * wide, 0.68 * wide):
                resist = np.maximum(
                    resist, _stitches(np.abs(place - middle), along, rng, pixel, stitch)
                )
        else:
            # Neighbouring seams are sewn separately: their stitches do not line up.
            number = np.floor((across + offset) / spacing)
            resist = _stitches(
                np.abs(seam - spacing / 2), along + 0.37 * stitch * number, rng, pixel, stitch
            )
        direction = {0: "horizontal ", 90: "vertical "}.get(int(turn), "diagonal ")
        words = {
            "stripes": f"stitched {direction}dashed lines in stripes",
            "zigzag": "stitched dashed lines in zigzag",
            "waves": "stitched dashed lines in waves",
        }[str(layout)]
    elif layout == "concentric":
        shape = rng.choice(["rings", "diamonds", "squares"])
        local_x, local_y = x - 0.5, y - 0.5
        radius = {
            "rings": np.hypot(local_x, local_y),
            "diamonds": (np.abs(local_x) + np.abs(local_y)) * 0.75,
            "squares": np.maximum(np.abs(local_x), np.abs(local_y)),
        }[str(shape)]
        number = np.floor(radius / spacing)
        along = np.arctan2(local_y, local_x) * (number + 0.5) * spacing
        # A whole number of stitches closes each ring without a half stitch.
        turns = np.maximum(np.round(TAU * (number + 0.5) * spacing / stitch), 1)
        along = along / ((number + 0.5) * spacing) / TAU * turns * stitch
        resist = _stitches(np.abs(radius % spacing - spacing / 2), along, rng, pixel, stitch)
        words = f"stitched dashed lines in concentric {shape}"
    elif layout == "leaf":
        resist = np.zeros_like(x)
        number = int(rng.integers(1, 4))
        turn = rng.uniform(-0.35, 0.35) if number == 1 else rng.choice([-0.4, 0.0, 0.4])
        size = {1: 0.47, 2: 0.24, 3: 0.165}[number]
        for column in range(number):
            for row in range(number if number > 1 else 1):
                local_x = x - (column + 0.5) / number
                local_y = y - (row + 0.5) / number
                flip = turn if (row + column) % 2 == 0 else -turn
                leaf_x = (np.cos(flip) * local_x + np.sin(flip) * local_y) / size
                leaf_y = (np.cos(flip) * local_y - np.sin(flip) * local_x) / size
                resist = np.maximum(
                    resist, _leaf(leaf_x, leaf_y, rng, pixel / size, size, stitch, number == 1)
                )
        words = {
            1: "one large leaf of stitched lines",
            2: "four leaves of stitched lines",
            3: "nine small leaves of stitched lines",
        }[number]
    else:
        panel = (np.floor(x * 2) + np.floor(y * 2)) % 2
        diagonal = (x + y) * 0.707, (x - y) * 0.707
        spacing = 0.0884
        first = _stitches(
            np.abs(diagonal[0] % spacing - spacing / 2), diagonal[1], rng, pixel, stitch
        )
        second = _stitches(
            np.abs(diagonal[1] % spacing - spacing / 2), diagonal[0], rng, pixel, stitch
        )
        if rng.random() < 0.5:
            panel = 1 - panel
        resist = np.where(panel > 0.5, first, second)
        words = "stitched diagonal dashed lines in four squares"
    return resist, words


def _leaf(
    x: Field,
    y: Field,
    rng: np.random.Generator,
    pixel: float,
    size: float,
    stitch: float,
    veined: bool,
) -> Field:
    """One stitched leaf along y in local coordinates; outlines inside each other, or veins."""
    width = 0.48
    centre = (1 - width**2) / (2 * width)
    blade = np.hypot(np.abs(x) + centre, y) - (centre + width)
    local_stitch = stitch / size
    resist = _stitches(np.abs(blade), y, rng, pixel, local_stitch)
    midrib = _stitches(np.abs(x), y, rng, pixel, local_stitch)
    resist = np.maximum(resist, midrib * (blade < 0))
    if veined:
        slope = y + 0.8 * np.abs(x)
        vein = np.abs((slope + 0.02) % 0.3 - 0.15) * 0.78
        inside = _stitches(vein, np.abs(x) * 1.3, rng, pixel, local_stitch) * (blade < -0.07)
        resist = np.maximum(resist, inside)
    outer = _stitches(np.abs(blade - 0.17), y, rng, pixel, local_stitch)
    return np.maximum(resist, outer * (np.abs(y) < 1.05)) if size > 0.2 else resist


def _draw_eleko(x: Field, y: Field, rng: np.random.Generator, pixel: float) -> tuple[Field, str]:
    cells = int(rng.choice([2, 2, 3, 3, 4]))
    names = [str(name) for name in rng.permutation(ELEKO_MOTIFS)[: int(rng.integers(1, 4))]]
    if cells == 2 and len(names) == 3:
        names = names[:2]
    arrangement = rng.choice(["checkered", "rows", "columns"])
    column, row = np.floor(x * cells), np.floor(y * cells)
    local_x = (x * cells - column) * 2 - 1
    local_y = (y * cells - row) * 2 - 1
    number = {"checkered": row + column, "rows": row, "columns": column}[str(arrangement)]
    which = number.astype(int) % len(names)
    local_pixel = 2 * pixel * cells
    border = 1.6 * local_pixel if cells < 4 else 1.1 * local_pixel
    scale = 1 - border - 1.1 * local_pixel
    painted = np.zeros_like(x)
    reverse = rng.random(len(names)) < 0.3  # ground painted, motif left to the dye
    for place, name in enumerate(names):
        distance = MOTIFS[name](local_x / scale, local_y / scale) * scale
        motif = coverage(distance, 1.5 * local_pixel)
        if reverse[place]:
            motif = (1 - motif) * coverage(box(local_x, local_y, scale, scale), local_pixel)
        painted = np.where(which == place, motif, painted)
    # The grid is painted first, by a broad comb: one line or two.
    edge = np.minimum(1 - np.abs(local_x), 1 - np.abs(local_y))
    painted = np.maximum(painted, coverage(edge - 0.55 * border, local_pixel))
    painted *= rng.uniform(0.9, 1.0)
    # Dried paste cracks, and dye creeps in.
    cracks = np.exp(-((smooth_noise(rng, x.shape[0], 9) / 0.07) ** 2)) * rng.uniform(0.05, 0.3)
    painted = painted * (1 - cracks)
    shown = [PLURALS.get(name, name) for name in names]
    listed = shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
    return painted, f"painted grid of {NUMBER_WORDS[cells]} squares with {listed}"
