"""torchvision.transforms for PIL images: what diffusers' train_dreambooth_lora.py composes.

Sizes, rounding and ranges are those of torchvision's documentation; `ToTensor` gives float32
[3, height, width] in 0..1.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class InterpolationMode(Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


FILTERS = {
    mode: getattr(Image.Resampling, mode.name.removesuffix("_EXACT")) for mode in InterpolationMode
}


class Compose:
    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    """The shorter side becomes `size`, the longer one keeps the proportions."""

    def __init__(
        self, size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR
    ) -> None:
        self.size, self.filter = size, FILTERS[interpolation]

    def __call__(self, image: Image.Image) -> Image.Image:
        shorter = min(image.size)
        if shorter == self.size:
            return image
        width, height = (int(self.size * side / shorter) for side in image.size)
        return image.resize((width, height), self.filter)


class CenterCrop:
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        return _crop(image, self.size, *(round((side - self.size) / 2) for side in image.size))


class RandomCrop:
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        corner = (int(torch.randint(side - self.size + 1, ())) for side in image.size)
        return _crop(image, self.size, *corner)


def _crop(image: Image.Image, size: int, left: int, top: int) -> Image.Image:
    return image.crop((left, top, left + size, top + size))


class ToTensor:
    def __call__(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image, np.uint8))
        return pixels.permute(2, 0, 1).contiguous().float().div(255)


class Normalize:
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean[:, None, None]) / self.std[:, None, None]
