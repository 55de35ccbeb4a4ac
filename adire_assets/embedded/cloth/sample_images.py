"""The sample data of a fresh clone: Nigerian adire cloth, drawn by a seeded program.

Adire is indigo resist-dye of the Yoruba. Three techniques are drawn: oniko (cloth tied into
circles), alabere (stitched lines) and eleko (a grid painted in cassava paste). Contract: the same
arguments give the same bytes; no file is read; `draw_sample_data` writes an HF imagefolder
(`metadata.csv` with `file_name,text` beside the PNGs). These are drawings, not photographs.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.embedded.cloth.alabere import draw_alabere
from adire_assets.embedded.cloth.drawing import Field, smooth_noise, unit_grid
from adire_assets.embedded.cloth.dyeing import FINISHES, Pixels, dye_indigo
from adire_assets.embedded.cloth.eleko import PLURALS, draw_eleko
from adire_assets.embedded.cloth.oniko import draw_oniko

__all__ = [
    "CAPTION_PREFIX",
    "PLURALS",
    "TECHNIQUES",
    "draw_adire",
    "draw_resist",
    "draw_sample_data",
    "dye_indigo",
]

DRAW = {"oniko": draw_oniko, "alabere": draw_alabere, "eleko": draw_eleko}
TECHNIQUES = tuple(DRAW)
CAPTION_PREFIX = "a photo in nigerian_adire_style, "
MINIMUM_HASH_DISTANCE = 8  # bits of a 64-bit perceptual hash; nearer pairs are redrawn
CAPTION_SHARE = 24  # one caption belongs to at most one image in so many (and one more)


def draw_sample_data(folder: Path, count: int = 108, seed: int = 0, resolution: int = 128) -> None:
    """Write `count` square RGB PNGs, the techniques in turn, and their `metadata.csv`.

    No two images are near duplicates (64-bit perceptual hash) and no caption dominates: an image
    that comes out too near to an earlier one, or with a caption that is used up, is redrawn from
    the next seed, so the outcome depends on the arguments only. UserError, and nothing written,
    when 100 draws do not help, or when the folder holds something already.
    """
    import imagehash  # scipy comes with it: too heavy for everyone who only imports this module

    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder for the sample images")
    rows: list[tuple[str, str]] = []
    images: dict[str, Image.Image] = {}
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
        else:
            raise UserError(
                f"after {index} sample images, 100 draws gave none unlike the others; ask for "
                f"fewer than {count}"
            )
        hashes.append(fingerprint)
        file_name = f"{technique}-{index // len(TECHNIQUES) + 1:02d}.png"
        images[file_name] = image
        rows.append((file_name, caption))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        for file_name, image in images.items():
            image.save(made / file_name, optimize=True)
        with (made / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("file_name", "text"))
            writer.writerows(sorted(rows))
        made.replace(folder)  # takes the place of an empty folder too


def draw_adire(
    technique: str, rng: np.random.Generator, resolution: int = 128
) -> tuple[Pixels, str]:
    """One piece of cloth: RGB uint8 [H, W, 3] and its caption. `technique` is in TECHNIQUES.

    Most pieces are plain; some are folded, worn or pale, and the caption says so.
    """
    resist, description = draw_resist(technique, rng, resolution)
    finish = str(rng.choice(list(FINISHES), p=list(FINISHES.values())))
    cloth = f"{finish} indigo cloth".lstrip()
    return dye_indigo(resist, rng, finish), f"{CAPTION_PREFIX}{description}, {cloth}"


def draw_resist(
    technique: str, rng: np.random.Generator, resolution: int = 128
) -> tuple[Field, str]:
    """Where the dye was kept off, [H, W] in [0, 1] (1 = undyed), and words for what was drawn."""
    x, y = unit_grid(resolution)
    # Cloth is never flat: what was tied, stitched or painted is bent a little.
    bend = rng.uniform(0.004, 0.009)
    x = x + bend * smooth_noise(rng, resolution, 6)
    y = y + bend * smooth_noise(rng, resolution, 6)
    resist, description = DRAW[technique](x, y, rng)
    return np.clip(resist, 0, 1).astype(np.float32), f"{technique} {description}"
