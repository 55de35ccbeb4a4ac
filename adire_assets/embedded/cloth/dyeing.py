"""From a resist mask to dyed cloth: the indigo vat, and what years do to the cloth afterwards.

Contract: pure numpy; masks are [H, W] float32 with 1 where the dye was kept off, images are uint8
[H, W, 3]; everything that varies comes from the generator passed in.
"""

import numpy as np
from numpy.typing import NDArray

from adire_assets.embedded.cloth.drawing import Field, creases, smooth_noise, unit_grid, wear

Pixels = NDArray[np.uint8]

FINISHES = {"": 0.7, "folded": 0.1, "worn": 0.1, "pale": 0.1}
"""How often a piece of cloth is plain (""), folded, worn or pale."""

# What a level of resist looks like: half-dyed cotton is a clear blue, not a grey between navy and
# white. One dip is nearly enough to lose the white, so the blues take most of the range.
LEVELS = (0.0, 0.2, 0.45, 0.72, 1.0)
FRESH_VAT = ((0.035, 0.05, 0.15), (0.09, 0.14, 0.33), (0.25, 0.37, 0.63), (0.62, 0.71, 0.83))
TIRED_VAT = ((0.11, 0.17, 0.41), (0.17, 0.26, 0.53), (0.33, 0.46, 0.70), (0.68, 0.76, 0.86))
PALE_VAT = ((0.27, 0.38, 0.60), (0.33, 0.45, 0.67), (0.46, 0.57, 0.74), (0.69, 0.76, 0.83))
COTTON = (0.94, 0.925, 0.87)


def dye_indigo(resist: Field, rng: np.random.Generator, finish: str = "") -> Pixels:
    """Dye a resist mask: uneven indigo ground, off-white marks, a slight weave; RGB [H, W, 3].

    `finish` is a key of FINISHES.
    """
    resolution = resist.shape[0]
    level = resist * (0.95 + 0.04 * smooth_noise(rng, resolution, 5))
    level = np.clip(level + (1 - resist) * _clouds(rng, resolution), 0, 1)
    light = np.ones_like(level)
    if finish == "worn":
        level = _rub(level, rng)
    elif finish == "folded":
        light = creases(rng, resolution)
        # A crease takes less dye, which is what shows on a dark ground.
        level = level + 1.3 * np.abs(light - 1) * (1 - level)
    colour = _indigo(level, rng, pale=finish == "pale") * light[..., None]
    return (np.clip(colour + _weave(rng, resolution)[..., None], 0, 1) * 255 + 0.5).astype(np.uint8)


def _clouds(rng: np.random.Generator, resolution: int) -> Field:
    """How far the dye failed to take on the bare ground, [H, W] from 0 to about 0.3."""
    clouds = 0.7 * smooth_noise(rng, resolution, 4) + 0.4 * smooth_noise(rng, resolution, 9)
    uneven = rng.uniform(0.015, 0.06) * (1 + clouds)
    if rng.random() < 0.25:  # the cloth hung out of the vat for a dip, at one side
        x, y = unit_grid(resolution)
        turn = rng.uniform(0, 2 * np.pi)
        height = np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5) + 0.06 * clouds
        uneven = uneven + rng.uniform(0.1, 0.26) * np.clip(0.5 + height / 0.5, 0, 1) ** 2
    return np.maximum(uneven, 0)


def _rub(level: Field, rng: np.random.Generator) -> Field:
    """Levels of cloth that was worn for years: clear blue where it rubbed, marks less white."""
    rubbed = np.pad(wear(rng, level.shape[0]), 1, mode="edge")
    # Rubbed threads are longer than a pixel and have no hard ends.
    rubbed = (rubbed[:-2] + 2 * rubbed[1:-1] + rubbed[2:]) / 4
    rubbed = (rubbed[:, :-2] + 2 * rubbed[:, 1:-1] + rubbed[:, 2:]) / 4
    return level + (0.1 + 0.5 * rubbed) * (0.72 - level)


def _indigo(level: Field, rng: np.random.Generator, pale: bool) -> NDArray[np.float64]:
    """Colours of levels of resist, RGB [H, W, 3] in [0, 1], from a vat that is drawn by lot."""
    depth = rng.uniform(0, 1) ** 1.5  # deep cloth is the one most prized, and most made
    stops = np.array(FRESH_VAT) * (1 - depth) + np.array(TIRED_VAT) * depth
    if pale:
        stops = np.array(PALE_VAT)
    # A little greener or more violet, the same for the whole cloth.
    stops = stops + rng.uniform(-0.02, 0.02, 3) * (1 - np.array(LEVELS[:4]))[:, None]
    stops = np.vstack(
        [stops, np.array(COTTON) + rng.uniform(-0.04, 0.03) + rng.uniform(-0.01, 0.01, 3)]
    )
    return np.stack([np.interp(level, LEVELS, stops[:, channel]) for channel in range(3)], axis=-1)


def _weave(rng: np.random.Generator, resolution: int) -> Field:
    """Threads of uneven thickness, both ways, and their crossings; [H, W] around 0."""
    warp = rng.standard_normal((1, resolution), dtype=np.float32)
    weft = rng.standard_normal((resolution, 1), dtype=np.float32)
    grain = rng.standard_normal((resolution, resolution), dtype=np.float32)
    return 0.007 * warp + 0.007 * weft + 0.011 * grain
