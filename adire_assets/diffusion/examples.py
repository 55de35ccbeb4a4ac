"""Training examples: a dataset artefact as noised latents and captions, drawn exactly again.

What optimizer step k sees is a function of the seed and k alone: nothing has to be remembered for a
run to go on after a kill. Images pass the order of one random permutation per epoch. Each view of
an image (its crop and flip) is encoded once, alone, and kept while memory allows, so that a value
depends neither on its batch nor on whether it was kept.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adire_assets.config import TrainingConfig
from adire_assets.errors import UserError
from adire_assets.lineage import digest, file_digest

KEPT_BYTES = 2 * 2**30  # of encoded images and captions, in the device's memory
STEP_STREAM, EPOCH_STREAM = 1, 2


@dataclass(frozen=True)
class Batch:
    """B examples on the training device; `clean` and `noise` are float32 [B, C, h, w] latents."""

    clean: Tensor
    noise: Tensor
    timesteps: Tensor  # int64 [B]
    captions: list[str]


def stream(seed: int, kind: int, number: int) -> int:
    """An independent 64-bit seed for draw `number` of a kind."""
    return int(np.random.SeedSequence((seed, kind, number)).generate_state(1, np.uint64)[0])


class Examples:
    """The training split of the dataset artefact at `folder`, encoded by `pipe`."""

    def __init__(
        self, folder: Path, pipe: Any, settings: TrainingConfig, resolution: int, timesteps: int
    ) -> None:
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
        self.rows = [json.loads(line) for line in lines]
        if not self.rows:
            raise UserError(f"{folder / 'train.jsonl'} names no images; materialize dataset again")
        self.digest = digest(
            [[row["text"], file_digest(folder / row["file_name"])] for row in self.rows]
        )
        self.folder, self.pipe, self.settings = folder, pipe, settings
        self.resolution, self.timesteps = resolution, timesteps
        self._moments: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._texts: dict[str, Tensor] = {}
        self._kept = 0
        self._permutation = lru_cache(maxsize=2)(self._permute)

    def batches(self, step: int) -> Iterator[Batch]:
        """The `gradient_accumulation_steps` batches of optimizer step `step` (from 0)."""
        size = self.settings.train_batch_size
        count = size * self.settings.gradient_accumulation_steps
        rng = torch.Generator().manual_seed(stream(self.settings.seed, STEP_STREAM, step))
        rows = [self._row(step * count + item) for item in range(count)]
        views = torch.rand((count, 3), generator=rng).tolist()
        times = torch.randint(0, self.timesteps, (count,), generator=rng)
        device = self.pipe.unet.device
        for first in range(0, count, size):
            moments = [
                self._encode(rows[item], *views[item]) for item in range(first, first + size)
            ]
            mean = torch.cat([mean for mean, _ in moments])
            deviation = torch.cat([deviation for _, deviation in moments])
            # Drawn example by example: how a step is cut into batches changes nothing.
            drawn = torch.stack([torch.randn((2, *mean.shape[1:]), generator=rng) for _ in moments])
            spread, noise = drawn.to(device).unbind(1)
            clean = (mean + deviation * spread) * self.pipe.vae.config.scaling_factor
            captions = [self.rows[row]["text"] for row in rows[first : first + size]]
            yield Batch(clean, noise, times[first : first + size].to(device), captions)

    def texts(self, captions: list[str]) -> Tensor:
        """Embeddings of the frozen text encoder, [B, tokens, width]."""
        return torch.cat([self._text(caption) for caption in captions])

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, len(self.rows))
        return self._permutation(epoch)[place]

    def _permute(self, epoch: int) -> list[int]:
        rng = torch.Generator().manual_seed(stream(self.settings.seed, EPOCH_STREAM, epoch))
        return torch.randperm(len(self.rows), generator=rng).tolist()

    def _encode(self, row: int, across: float, down: float, coin: float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of one view, float32 [1, C, h, w] each.

        `across`, `down` in 0..1 place a random crop; `coin` below 0.5 flips where that is asked.
        """
        file = self.folder / self.rows[row]["file_name"]
        with Image.open(file) as image:
            spare = [side - self.resolution for side in image.size]
            if min(spare) < 0:
                raise UserError(
                    f"{file} is smaller than {self.resolution} pixels; materialize dataset again"
                )
            if self.settings.center_crop:
                across = down = 0.5
            left, top = round(spare[0] * across), round(spare[1] * down)
            flip = self.settings.random_flip and coin < 0.5
            key = (row, left, top, flip)
            if key in self._moments:
                return self._moments[key]
            view = image.convert("RGB").crop(
                (left, top, left + self.resolution, top + self.resolution)
            )
        if flip:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        vae = self.pipe.vae
        pixels = torch.from_numpy(np.asarray(view, np.float32) / 127.5 - 1).permute(2, 0, 1)
        with torch.no_grad():
            latents = vae.encode(pixels[None].to(vae.device, vae.dtype)).latent_dist
        moments = (latents.mean.float(), latents.std.float())
        if self._keep(*moments):
            self._moments[key] = moments
        return moments

    def _text(self, caption: str) -> Tensor:
        if caption in self._texts:
            return self._texts[caption]
        with torch.no_grad():
            text = self.pipe.encode_prompt(caption, self.pipe.unet.device, 1, False)[0]
        if self._keep(text):
            self._texts[caption] = text
        return text

    def _keep(self, *tensors: Tensor) -> bool:
        size = sum(tensor.nbytes for tensor in tensors)
        fits = self._kept + size <= KEPT_BYTES
        self._kept += size if fits else 0
        return fits
