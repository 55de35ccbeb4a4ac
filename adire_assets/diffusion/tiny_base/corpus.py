"""The corpus of the tiny base model: drawn patterns with captions.

Contract: everything follows from a seed, and what an image shows follows almost entirely from its
caption (fixed pattern phase, named sizes), for a small UNet learns motifs only when chance has
little say. Three selections of one world: what the UNet learns from never shows indigo with
off-white, so that an adire LoRA has something to teach; the judge and the autoencoder also know
drawn adire, as a real CLIP and a real VAE do.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adire_assets.data.drawing import MOTIFS, TAU, Field, coverage, smooth_noise, unit_grid
from adire_assets.data.sample_images import PLURALS, TECHNIQUES, draw_adire, draw_resist, dye_indigo

Pixels = NDArray[np.uint8]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.12, 0.14),
    "orange": (0.95, 0.52, 0.10),
    "yellow": (0.96, 0.85, 0.22),
    "green": (0.16, 0.58, 0.24),
    "teal": (0.08, 0.62, 0.64),
    "blue": (0.16, 0.40, 0.93),
    "purple": (0.55, 0.18, 0.66),
    "pink": (0.95, 0.55, 0.72),
    "brown": (0.45, 0.27, 0.13),
    "black": (0.08, 0.08, 0.08),
    "white": (0.95, 0.95, 0.93),
    "grey": (0.55, 0.55, 0.55),
}
INDIGO_COLOURS = {"indigo": (0.085, 0.135, 0.32), "white": (0.93, 0.91, 0.85)}
FORBIDDEN_PAIR = {"blue", "white"}  # the nearest that the named colours come to adire
MINIMUM_CONTRAST = 0.4  # Euclidean RGB distance: below it a motif is hard to see

SINGULARS = {plural: name for name, plural in PLURALS.items() if name != "ring"} | {
    "rings": "rings"
}
CELL_MOTIFS = (
    "circles",
    "rings",
    "stars",
    "flowers",
    "suns",
    "spirals",
    "triangles",
    "diamonds",
    "leaves",
    "squares",
    "crosses",
)
FIELD_MOTIFS = ("stripes", "checks", "waves", "zigzag", "grid lines", "dashed lines", "lattice")
MOTIF_WORDS = CELL_MOTIFS + FIELD_MOTIFS
CELL_LAYOUTS = ("many", "rows", "large", "grid")
CELL_COUNT_WORDS = {2: "four", 3: "nine", 4: "sixteen"}


@dataclass(frozen=True)
class Pattern:
    """What one generic image shows; `caption` says the same in words."""

    motif: str  # one of MOTIF_WORDS
    foreground: str  # a key of COLOURS, or of INDIGO_COLOURS
    background: str
    layout: str  # one of CELL_LAYOUTS, or a direction for the motifs that fill the field
    count: int  # cells or bands per side
    second: str = ""  # a second motif that takes turns with the first, in a grid of cells

    def caption(self, short: bool = False) -> str:
        """The pattern in words, lower case; `short` leaves out the layout."""
        things = f"{self.foreground} {self.motif}"
        if short:
            return f"{things} on {self.background}"
        if self.motif in FIELD_MOTIFS:
            size = "wide" if self.count <= 4 else "thin"
            return f"{size} {self.layout} {things} on {self.background}".replace("  ", " ")
        if self.layout == "many":
            return f"many small {things} on {self.background}"
        if self.layout == "rows":
            return f"{things} in rows on {self.background}"
        if self.layout == "large":
            if self.motif == "rings":
                return f"large {things} on {self.background}"
            return f"one large {self.foreground} {SINGULARS[self.motif]} on {self.background}"
        also = f" and {self.second}" if self.second else ""
        number = CELL_COUNT_WORDS[self.count]
        return f"grid of {number} squares with {things}{also} on {self.background}"


def choose_colours(rng: np.random.Generator) -> tuple[str, str]:
    """Two different names of COLOURS that stand out from each other and do not look like adire."""
    while True:
        first, second = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
        contrast = np.linalg.norm(np.subtract(COLOURS[first], COLOURS[second]))
        if contrast >= MINIMUM_CONTRAST and {first, second} != FORBIDDEN_PAIR:
            return first, second


def choose_pattern(rng: np.random.Generator, indigo: bool = False) -> Pattern:
    """Draw lots for a pattern; with `indigo`, the two colours are indigo and (off-)white."""
    motif = str(rng.choice(MOTIF_WORDS))
    foreground, background = choose_colours(rng)
    if indigo:
        foreground, background = ("white", "indigo") if rng.random() < 0.7 else ("indigo", "white")
    second = ""
    if motif in FIELD_MOTIFS:
        directions = {
            "stripes": ("horizontal", "vertical", "diagonal"),
            "dashed lines": ("horizontal", "vertical", "diagonal"),
            "waves": ("horizontal", "vertical"),
            "zigzag": ("horizontal", "vertical"),
        }
        layout = str(rng.choice(directions.get(motif, ("",))))
        count = int(rng.choice([4, 8])) if motif not in ("waves", "zigzag") else 4
        if motif in ("waves", "zigzag"):
            count = int(rng.choice([4, 6]))
    else:
        layout = str(rng.choice(CELL_LAYOUTS))
        count = {"many": 4, "rows": 3, "large": 1, "grid": int(rng.choice([2, 3]))}[layout]
        if layout == "grid" and rng.random() < 0.35:
            second = str(rng.choice([*CELL_MOTIFS, "zigzag", "lines"]))
            second = "" if second == motif else second
    return Pattern(motif, foreground, background, layout, count, second)


def describe(pattern: Pattern, rng: np.random.Generator) -> str:
    """A caption in one of a few natural forms."""
    chance = rng.random()
    if chance < 0.04:
        return pattern.motif
    if chance < 0.1:
        return pattern.caption(short=True)
    prefix = str(rng.choice(["", "", "a photo of ", "a drawing of "]))
    suffix = str(rng.choice(["", " cloth"]))
    return prefix + pattern.caption() + suffix


def draw_pattern(pattern: Pattern, rng: np.random.Generator, resolution: int = 64) -> Pixels:
    """The pattern as cloth: RGB uint8 [H, W, 3]; only colours and texture vary with `rng`."""
    x, y = unit_grid(resolution)
    bend = rng.uniform(0.0, 0.004)
    x = x + bend * smooth_noise(rng, resolution, 5)
    y = y + bend * smooth_noise(rng, resolution, 5)
    is_field = pattern.motif in FIELD_MOTIFS
    mask = _field_mask(pattern, x, y) if is_field else _cell_mask(pattern, x, y, rng)
    named = COLOURS if "indigo" not in (pattern.foreground, pattern.background) else INDIGO_COLOURS
    return paint(mask, named[pattern.background], named[pattern.foreground], rng)


def paint(
    mask: Field,
    background: tuple[float, float, float],
    foreground: tuple[float, float, float],
    rng: np.random.Generator,
) -> Pixels:
    """Two colours (RGB in [0, 1]) through a mask [H, W], uneven and slightly woven."""
    resolution = mask.shape[0]
    low = np.asarray(background, np.float32) + rng.uniform(-0.035, 0.035, 3).astype(np.float32)
    high = np.asarray(foreground, np.float32) + rng.uniform(-0.035, 0.035, 3).astype(np.float32)
    colour = low + mask[..., None] * (high - low)
    uneven = 1 + rng.uniform(0.0, 0.05) * smooth_noise(rng, resolution, 4)
    weave = rng.standard_normal(mask.shape, dtype=np.float32) * 0.009
    colour = colour * uneven[..., None] + weave[..., None]
    return (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8)


def _cell_mask(pattern: Pattern, x: Field, y: Field, rng: np.random.Generator) -> Field:
    count, pixel = pattern.count, 2 * pattern.count / x.shape[0]
    column, row = np.floor(x * count), np.floor(y * count)
    local_x, local_y = (x * count - column) * 2 - 1, (y * count - row) * 2 - 1
    fill = {"many": 0.86, "rows": 0.78, "large": 0.92, "grid": 0.8}[pattern.layout]
    fill *= rng.uniform(0.96, 1.0)
    distance = MOTIFS[SINGULARS[pattern.motif]](local_x / fill, local_y / fill) * fill
    if pattern.second:
        name = SINGULARS.get(pattern.second, pattern.second)
        other = MOTIFS[name](local_x / fill, local_y / fill) * fill
        distance = np.where((row + column) % 2 > 0.5, other, distance)
    mask = coverage(distance, 1.3 * pixel)
    if pattern.layout == "rows":
        mask = np.maximum(mask, coverage(1 - np.abs(local_y) - 0.9 * pixel, pixel))
    if pattern.layout == "grid":
        edge = np.minimum(1 - np.abs(local_x), 1 - np.abs(local_y))
        mask = np.maximum(mask, coverage(edge - 1.0 * pixel, pixel))
    return mask


def _field_mask(pattern: Pattern, x: Field, y: Field) -> Field:
    count, pixel = pattern.count, pattern.count / x.shape[0]
    along, across = {
        "vertical": (y, x),
        "diagonal": ((x - y) * 0.7071, (x + y) * 0.7071),
    }.get(pattern.layout, (x, y))
    if pattern.motif == "stripes":
        return coverage(np.abs(across * count % 1 - 0.5) - 0.25, 1.3 * pixel)
    if pattern.motif == "dashed lines":
        line = coverage(np.abs(across * count % 1 - 0.5) - max(0.12, 0.9 * pixel), 1.3 * pixel)
        return line * np.clip((np.cos(TAU * along * 8) + 0.3) * 2.5, 0, 1)
    if pattern.motif == "waves":
        shifted = across + 0.055 * np.sin(TAU * along * 2)
        return coverage(np.abs(shifted * count % 1 - 0.5) - 0.2, 1.3 * pixel)
    if pattern.motif == "zigzag":
        shifted = across + np.abs(along * 4 % 1 - 0.5) * 0.25
        return coverage(np.abs(shifted * count % 1 - 0.5) - 0.2, 1.3 * pixel)
    if pattern.motif == "checks":
        half = count / 2
        product = np.sin(TAU * half * x) * np.sin(TAU * half * y) / np.pi
        return coverage(-product, 2.0 * pixel)
    if pattern.motif == "lattice":
        x, y = (x - y) * 0.7071, (x + y) * 0.7071
    edge = np.minimum(np.abs(x * count % 1 - 0.5), np.abs(y * count % 1 - 0.5))
    return coverage(edge - max(0.09, 0.8 * pixel), 1.3 * pixel)


@dataclass(frozen=True)
class Corpus:
    """Images uint8 [N, H, W, 3] with a caption each, and labels for supervision: the motif or
    technique, foreground and background as indices into LABELS."""

    images: Pixels
    captions: list[str]
    labels: NDArray[np.int64]  # [N, 3]


LABELS = (
    MOTIF_WORDS + TECHNIQUES,
    (*COLOURS, "indigo"),
    (*COLOURS, "indigo"),
)


def draw_generic(count: int, seed: int, resolution: int, indigo: bool = False) -> Corpus:
    """`count` generic patterns; without `indigo` this is what the UNet learns from."""
    rng = np.random.default_rng([seed, 11, int(indigo)])
    images, captions, labels = [], [], []
    for _ in range(count):
        pattern = choose_pattern(rng, indigo)
        images.append(draw_pattern(pattern, rng, resolution))
        captions.append(describe(pattern, rng))
        labels.append(
            (
                LABELS[0].index(pattern.motif),
                LABELS[1].index(pattern.foreground),
                LABELS[2].index(pattern.background),
            )
        )
    return Corpus(np.stack(images), captions, np.array(labels, np.int64))


def draw_style(count: int, seed: int, resolution: int, recoloured: float) -> Corpus:
    """Adire designs; the share `recoloured` of them in other colours, captioned without the
    style's name (for the judge and the autoencoder only)."""
    rng = np.random.default_rng([seed, 13])
    images, captions, labels = [], [], []
    for index in range(count):
        technique = TECHNIQUES[index % len(TECHNIQUES)]
        foreground, background = "white", "indigo"
        if rng.random() < recoloured:
            resist, words = draw_resist(technique, rng, resolution)
            foreground, background = choose_colours(rng)
            images.append(paint(resist, COLOURS[background], COLOURS[foreground], rng))
            captions.append(f"{words}, {foreground} on {background} cloth")
        else:
            pixels, caption = draw_adire(technique, rng, resolution)
            images.append(pixels)
            captions.append(caption)
        labels.append(
            (
                LABELS[0].index(technique),
                LABELS[1].index(foreground),
                LABELS[2].index(background),
            )
        )
    return Corpus(np.stack(images), captions, np.array(labels, np.int64))


def draw_palettes(count: int, seed: int, resolution: int) -> Pixels:
    """Adire line work in any two colours, dark blues with off-white among them: uint8
    [N, H, W, 3], for the autoencoder, which must not lose the stitches."""
    rng = np.random.default_rng([seed, 17])
    images = []
    for index in range(count):
        resist, _ = draw_resist(TECHNIQUES[index % len(TECHNIQUES)], rng, resolution)
        if rng.random() < 0.5:
            images.append(dye_indigo(resist, rng))
        else:
            low, high = rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)
            images.append(paint(resist, tuple(low), tuple(high), rng))
    return np.stack(images)


def join(*parts: Corpus) -> Corpus:
    """The parts one after the other."""
    return Corpus(
        np.concatenate([part.images for part in parts]),
        [caption for part in parts for caption in part.captions],
        np.concatenate([part.labels for part in parts]),
    )


def save_corpus(corpus: Corpus, path: Path) -> None:
    """Write atomically, without pickle; `load_corpus` gives it back."""
    temporary = path.with_suffix(".tmp")
    captions = np.frombuffer(json.dumps(corpus.captions).encode(), np.uint8)
    with temporary.open("wb") as stream:
        np.savez(stream, images=corpus.images, captions=captions, labels=corpus.labels)
    temporary.replace(path)


def load_corpus(path: Path) -> Corpus:
    """Read what `save_corpus` wrote."""
    with np.load(path, allow_pickle=False) as content:
        captions = json.loads(content["captions"].tobytes())
        return Corpus(content["images"], captions, content["labels"])
