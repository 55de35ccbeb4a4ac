"""The corpus of the tiny base model: drawn patterns and adire, with captions.

Contract: everything follows from a seed. Three selections of one world: what the UNet learns from
never shows indigo with off-white, so that an adire LoRA has something to teach; the judge and the
autoencoder also know drawn adire, as a real CLIP and a real VAE do.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adire_assets.embedded.base.pattern_images import Pixels, draw_pattern, paint
from adire_assets.embedded.base.patterns import (
    COLOURS,
    MOTIF_WORDS,
    choose_colours,
    choose_pattern,
    describe,
)
from adire_assets.embedded.cloth.sample_images import (
    TECHNIQUES,
    draw_adire,
    draw_resist,
    dye_indigo,
)


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


def save_sheet(path: Path, seed: int = 0, columns: int = 12, rows: int = 8) -> list[str]:
    """A picture of the first patterns of a seed, as the UNet sees them; returns their captions."""
    corpus = draw_generic(columns * rows, seed, 128)
    lines = [np.hstack(list(corpus.images[row * columns :][:columns])) for row in range(rows)]
    Image.fromarray(np.vstack(lines)).save(path)
    return corpus.captions
