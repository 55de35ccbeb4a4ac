"""Alabere: cloth that is folded and stitched with raffia before it is dyed.

What makes it alabere is the seam: dashes of a hand-made length where the thread lay on the cloth,
a pale pucker on both sides, and small pleats that the pulled thread made across it. Contract:
`draw_alabere` gives a resist mask and the words for it; pure numpy, no state but the generator.
"""

from dataclasses import dataclass

import numpy as np

from adire_assets.embedded.cloth.drawing import TAU, Field, coverage, smooth_noise

LAYOUTS = {
    "stripes": 0.2,
    "zigzag": 0.12,
    "waves": 0.12,
    "concentric": 0.17,
    "leaves": 0.15,
    "panels": 0.1,
    "lattice": 0.05,
    "spiral": 0.04,
    "rays": 0.05,
}
"""How often the seams are laid out this way."""

TABLE = 512  # stitches with a length of their own; after so many, lengths repeat


@dataclass(frozen=True)
class Hand:
    """How one sewer sews; lengths in parts of the image, tables by number of the stitch."""

    stitch: float  # a stitch with its gap
    width: float  # of the thread's mark
    pixel: float
    pull: float  # how tight the thread was pulled, around 1
    length: Field  # [TABLE], part of a stitch that lies on top
    strength: Field  # [TABLE], how well the stitch kept the dye off
    reach: Field  # [TABLE], of a stitch's pleat to either side, in parts of the image
    slip: Field  # [TABLE], off the line, in parts of the image
    bleeding: Field  # [H, W], how the dye crept along the seams, around 1


def draw_alabere(x: Field, y: Field, rng: np.random.Generator) -> tuple[Field, str]:
    """Resist of stitched seams, [H, W], and words; `x`, `y` [H, W] are in parts of the image."""
    resolution = x.shape[0]
    hand = Hand(
        stitch=rng.uniform(0.056, 0.086),
        width=rng.uniform(0.018, 0.023),
        pixel=1.0 / resolution,
        pull=rng.uniform(0.7, 1.6),
        length=rng.uniform(0.48, 0.72, TABLE).astype(np.float32),
        strength=rng.uniform(0.75, 1.0, TABLE).astype(np.float32),
        reach=rng.uniform(0.008, 0.032, TABLE).astype(np.float32),
        slip=rng.normal(0, 0.0022, TABLE).astype(np.float32),
        bleeding=np.clip(
            1 + 0.25 * smooth_noise(rng, resolution, 12) + 0.3 * smooth_noise(rng, resolution, 42),
            0.2,
            1.7,
        ),
    )
    layout = str(rng.choice(list(LAYOUTS), p=list(LAYOUTS.values())))
    spacing = rng.uniform(0.095, 0.165)
    if layout in ("stripes", "zigzag", "waves"):
        return _stripes(layout, x, y, spacing, hand, rng)
    if layout == "concentric":
        return _concentric(x, y, spacing, hand, rng)
    if layout == "leaves":
        return _leaves(x, y, hand, rng)
    if layout in ("spiral", "rays"):
        return _around(layout, x - 0.5, y - 0.5, spacing, hand, rng)
    diagonal, other = (x + y) * 0.707, (x - y) * 0.707
    if layout == "lattice":
        spacing = 0.707 / int(rng.integers(3, 5))
        first = _seams(diagonal, other, spacing, hand)
        second = _seams(other, diagonal, spacing, hand)
        return np.maximum(first, second), "stitched dashed lines in a lattice of diamonds"
    return _panels(x, y, hand, rng)


def _stitches(distance: Field, along: Field, seam: Field, hand: Hand) -> Field:
    """Resist of seams, [H, W].

    `distance` is the signed distance to the seam and `along` the length on it, in parts of the
    image; `seam` is the seam's number, so that each is sewn with stitches of its own.
    """
    phase = along / hand.stitch + 0.37 * seam
    number = np.floor(phase)
    place = (number.astype(np.intp) * 7 + seam.astype(np.intp) * 61) % TABLE
    middle = phase - number - 0.5
    beyond = np.maximum(np.abs(middle) - 0.5 * hand.length[place], -0.5) * hand.stitch
    aside = distance + hand.slip[place]
    # Ends are round: thread goes into the cloth through a hole.
    ends = np.hypot(np.maximum(beyond + 0.5 * hand.width, 0), aside)
    dash = coverage(ends - 0.5 * hand.width, max(0.012, 1.3 * hand.pixel))
    dash = dash * hand.strength[place]
    pucker = 0.22 * np.exp(-((aside / (1.15 * hand.width)) ** 2))
    # Pulled thread gathers the cloth: a pleat across the seam at every stitch.
    reach = hand.reach[place] * hand.pull
    pleat = np.exp(-((middle / 0.2) ** 2) - np.abs(aside) / reach)
    gathered = (pucker + 0.5 * pleat * hand.strength[place]) * hand.bleeding * hand.pull**0.5
    return np.maximum(dash, gathered)


def _seams(across: Field, along: Field, spacing: float, hand: Hand) -> Field:
    """Parallel seams, one every `spacing`."""
    number = np.floor(across / spacing)
    return _stitches(across - (number + 0.5) * spacing, along, number, hand)


def _stripes(
    layout: str, x: Field, y: Field, spacing: float, hand: Hand, rng: np.random.Generator
) -> tuple[Field, str]:
    turn = int(rng.choice([0, 90, 45, -45] if layout == "stripes" else [0, 0, 90]))
    sine, cosine = np.sin(np.deg2rad(turn)), np.cos(np.deg2rad(turn))
    along, across = cosine * x + sine * y, cosine * y - sine * x
    if layout == "zigzag":
        period = 1 / int(rng.integers(2, 5))
        slope = rng.uniform(0.7, 1.2)
        height = np.abs((along + 0.1) % period - period / 2)
        across = (across + slope * height) / np.hypot(1, slope)
        along = along * np.hypot(1, slope)
    elif layout == "waves":
        period = rng.uniform(0.35, 0.75)
        height = rng.uniform(0.15, 0.2) * period
        across = across + height * np.sin(TAU * (along / period + rng.uniform()))
    across = across + rng.uniform(0, spacing)
    paired = rng.random() < 0.35
    if paired:
        spacing = max(2.1 * spacing, 0.23)
        number = np.floor(across / spacing)
        middle = across - (number + 0.5) * spacing
        gap = 0.034 + hand.width / 2
        resist = np.maximum(
            _stitches(middle - gap, along, 2 * number, hand),
            _stitches(middle + gap, along, 2 * number + 1, hand),
        )
    else:
        resist = _seams(across, along, spacing, hand)
    shape = {"stripes": "stripes", "zigzag": "zigzag", "waves": "waves"}[layout]
    if layout == "stripes":
        direction = {0: "horizontal", 90: "vertical"}.get(turn, "diagonal")
        shape = "pairs" if paired else shape
        return resist, f"stitched {direction} dashed lines in {shape}"
    shape = f"vertical {shape}" if turn else shape
    return resist, f"stitched {'pairs of ' if paired else ''}dashed lines in {shape}"


def _concentric(
    x: Field, y: Field, spacing: float, hand: Hand, rng: np.random.Generator
) -> tuple[Field, str]:
    shape = str(rng.choice(["rings", "diamonds", "squares"]))
    cells = int(rng.choice([1, 1, 2]))
    # Half of the cloth's side is the room for two figures, and they do not touch.
    room = {"rings": 0.245, "diamonds": 0.173, "squares": 0.24}[shape]
    if cells == 2:
        spacing = room / (2 if shape == "diamonds" else 3)
    local_x = (x * cells % 1 - 0.5) / cells
    local_y = (y * cells % 1 - 0.5) / cells
    corner = {
        "rings": np.hypot(local_x, local_y),
        "diamonds": (np.abs(local_x) + np.abs(local_y)) * 0.707,
        "squares": np.maximum(np.abs(local_x), np.abs(local_y)),
    }[shape]
    number = np.floor(corner / spacing)
    middle = (number + 0.5) * spacing
    if shape == "rings":
        # A whole number of stitches closes each ring without a half stitch.
        turns = np.maximum(np.round(TAU * middle / hand.stitch), 3)
        along = (np.arctan2(local_y, local_x) / TAU) * turns * hand.stitch
    elif shape == "diamonds":
        along = (local_x - np.sign(local_y) * np.sign(local_x) * local_y) * 0.707
    else:
        along = np.where(np.abs(local_x) > np.abs(local_y), local_y, local_x)
    resist = _stitches(
        corner - middle, along, np.zeros_like(number) if shape == "rings" else number, hand
    )
    words = f"stitched dashed lines in concentric {shape}"
    if cells == 2:
        resist = resist * coverage(corner - room, 0.02)
        words = f"stitched dashed lines in four concentric {shape}"
    return resist, words


def _around(
    layout: str, x: Field, y: Field, spacing: float, hand: Hand, rng: np.random.Generator
) -> tuple[Field, str]:
    """One seam that winds around the middle, or seams that run out from it."""
    radius, turn = np.hypot(x, y), np.arctan2(y, x) / TAU + 0.5
    if layout == "spiral":
        number = np.floor(radius / spacing - turn)
        winding = number + turn
        middle = spacing * (winding + 0.5)
        length = np.pi * spacing * (winding + 0.5) ** 2  # of a spiral, nearly
        # One seam: its stitches go on from turn to turn.
        resist = _stitches(radius - middle, length, np.zeros_like(x), hand)
        return resist * (middle > 0.3 * spacing), "stitched dashed lines in a spiral"
    count = int(rng.choice([10, 12, 14]))
    place = turn * count
    seam = np.floor(place)
    angle = (place - seam - 0.5) * TAU / count
    # Towards the middle there is room for every second seam only.
    start = np.where(seam % 2 < 0.5, 0.07, 0.17)
    rays = _stitches(radius * np.sin(angle), radius, seam, hand) * coverage(start - radius, 0.02)
    ring = _stitches(radius - 0.045, turn * 4 * hand.stitch, np.zeros_like(x), hand)
    resist = np.maximum(rays, ring)
    return resist, "stitched dashed lines in rays"


def _panels(x: Field, y: Field, hand: Hand, rng: np.random.Generator) -> tuple[Field, str]:
    """Squares with a seam around each, filled with seams that turn from square to square."""
    cells = int(rng.choice([2, 3]))
    side = 1 / cells
    column, row = np.floor(x * cells), np.floor(y * cells)
    local_x, local_y = x - (column + 0.5) * side, y - (row + 0.5) * side
    turned = (column + row + rng.integers(2)) % 2 > 0.5
    seams = {2: 4, 3: 3}[cells]
    words = "diagonal"
    if rng.random() < 0.5:
        words = "horizontal and vertical"
        across, along = np.where(turned, local_x, local_y), np.where(turned, local_y, local_x)
        spacing = side / (seams + 0.6)
    else:
        across = np.where(turned, local_x + local_y, local_x - local_y) * 0.707
        along = np.where(turned, local_x - local_y, local_x + local_y) * 0.707
        spacing = side / seams * 0.9
    filling = _seams(across + 10.5 * spacing, along, spacing, hand)
    inside = side / 2 - np.maximum(np.abs(local_x), np.abs(local_y))
    resist = filling * coverage(0.03 - inside, 0.016)
    for axis, other in ((x, y), (y, x)):
        frame = np.round(axis * cells)
        resist = np.maximum(resist, _stitches(axis - frame * side, other, 3 * frame + 40, hand))
    count = "four" if cells == 2 else "nine"
    return resist, f"stitched {words} dashed lines in {count} squares"


def _leaves(x: Field, y: Field, hand: Hand, rng: np.random.Generator) -> tuple[Field, str]:
    number = int(rng.integers(1, 4))
    turn = rng.uniform(-0.35, 0.35) if number == 1 else rng.choice([-0.45, 0.0, 0.45])
    size = {1: 0.46, 2: 0.2, 3: 0.125}[number]
    column, row = np.floor(x * number), np.floor(y * number)
    flip = np.where((column + row) % 2 > 0.5, -turn, turn)
    local_x, local_y = x - (column + 0.5) / number, y - (row + 0.5) / number
    leaf_x = np.cos(flip) * local_x + np.sin(flip) * local_y
    leaf_y = np.cos(flip) * local_y - np.sin(flip) * local_x
    resist = _leaf(leaf_x, leaf_y, size, row * 3 + column, number, hand)
    words = {
        1: "one large leaf of stitched lines",
        2: "four leaves of stitched lines",
        3: "nine small leaves of stitched lines",
    }[number]
    return resist, words


def _leaf(x: Field, y: Field, size: float, seam: Field, number: int, hand: Hand) -> Field:
    """One stitched leaf along y, `size` from its middle to its tip, in parts of the image."""
    width = (0.5 if number == 1 else 0.56) * size
    centre = (size**2 - width**2) / (2 * width)
    blade = np.hypot(np.abs(x) + centre, y) - (centre + width)
    side = (seam * 11 + 3 * np.sign(x)).astype(np.float32)
    resist = _stitches(blade, y, side, hand)
    midrib = _stitches(x, y, seam * 11 + 5, hand)
    resist = np.maximum(resist, midrib * coverage(blade, 0.01))
    if number == 1:
        slope = 0.75 * y + 0.66 * np.abs(x)
        vein = _seams(slope.astype(np.float32), np.abs(x) * 1.3, 0.115, hand)
        resist = np.maximum(resist, vein * coverage(blade + 0.045, 0.01))
        outer = _stitches(blade - 0.075, y, side + 1, hand)
        resist = np.maximum(resist, outer)
    elif number == 2:
        inner = _stitches(blade + 0.052, y, side + 1, hand)
        resist = np.maximum(resist, inner * coverage(0.014 - np.abs(x), 0.012))
    return resist
