"""The memory of a training on many images.

    python -m benchmarks.many_images [--images 100000]

A dataset artifact with that many rows (links to one small picture, each with a content of its own)
goes through what a training does with its images: rows read, steps drawn, every view "encoded" (a
constant of a latent's size takes the place of the autoencoder, which sees one image at a time),
kept on disk, and read back step by step. The resident memory beyond that of an empty process is
held against that of all latents. The last line is

    images: n=<images> latents_mib=<all latents> memory_mib=<peak growth> seconds=<whole time>
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil
import torch
from diffusers import DDPMScheduler
from PIL import Image

from adire_assets.core.lineage import digest
from adire_assets.families.diffusion.engine.architecture import Latents, Noise
from adire_assets.families.diffusion.training.cache import TensorCache
from adire_assets.families.diffusion.training.examples import Examples
from adire_assets.families.diffusion.training.settings import TrainingConfig

RESOLUTION, CHANNELS, SCALE = 128, 12, 8
BATCH = 100
VALIDATION = 16


def write_dataset(folder: Path, images: int) -> None:
    """As the dataset asset leaves it; the files of a manifest are read for their hashes."""
    (folder / "images").mkdir(parents=True)
    picture = folder / "images" / "0.png"
    Image.new("RGB", (RESOLUTION, RESOLUTION), "#1b1f3b").save(picture)
    names = [f"images/{number}.png" for number in range(images + VALIDATION)]
    for start in range(0, len(names), 50_000):  # a file has a limited number of links
        first = folder / names[start]
        if start:
            first.write_bytes(picture.read_bytes())
        for name in names[start + 1 : start + 50_000]:
            (folder / name).hardlink_to(first)
    for split, part in (("train", names[:images]), ("validation", names[images:])):
        lines = [json.dumps({"file_name": name, "text": "cloth"}) + "\n" for name in part]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    files = {name: digest(name) for name in names}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def main() -> None:
    parser = argparse.ArgumentParser(description="The memory of a training on many images.")
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    settings = TrainingConfig(
        train_batch_size=BATCH, max_train_steps=options.images // BATCH, random_flip=False
    )
    side = RESOLUTION // SCALE
    latent = torch.zeros(1, CHANNELS, side, side)
    process, began = psutil.Process(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="adire-images-") as name:
        folder = Path(name)
        write_dataset(folder / "dataset", options.images)
        before = peak = process.memory_info().rss
        examples = Examples(
            folder / "dataset",
            settings,
            resolution=RESOLUTION,
            geometry=Latents(CHANNELS, SCALE, SCALE * 4, 1.0),
            noise=Noise(DDPMScheduler().config),
            latents=TensorCache(folder / "latents", {}),
            texts=TensorCache(folder / "texts", {}),
            device=torch.device("cpu"),
        )
        examples.prepare(
            0, lambda _: (latent, latent + 1), lambda _: {"words": torch.zeros(32, 128)}
        )
        for step in range(settings.max_train_steps):
            for _ in examples.batches(step):
                peak = max(peak, process.memory_info().rss)
    whole = 2 * latent.nbytes * options.images
    print(
        f"images: n={options.images} latents_mib={whole >> 20} "
        f"memory_mib={(peak - before) >> 20} seconds={time.monotonic() - began:.0f}"
    )


if __name__ == "__main__":
    main()
