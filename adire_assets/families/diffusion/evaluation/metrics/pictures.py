"""What the metrics on pixels share: real pictures as the model draws them, and what is usual. No
metric itself."""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from adire_assets.families.diffusion.evaluation.image_files import evenly_spaced
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs

MAXIMUM_USUAL = 1000  # real images of each part that say what is usual
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green, blue: ITU-R BT.601


def fit_to_generated(images: Iterable[np.ndarray], inputs: MetricInputs) -> Iterator[np.ndarray]:
    """Real images at the size of the generated ones, uint8 [H, W, 3], one after the other.

    Their middle is cut to that shape and scaled, as training does: sharpness has no meaning across
    sizes, and a perceptual hash none across shapes.
    """
    for image in images:
        yield _middle(image, *inputs.images[0].shape[1::-1]) if inputs.images else image


def usual_pictures(inputs: MetricInputs) -> Iterator[np.ndarray]:
    """Training and held-out images, `fit_to_generated`: of many an even choice."""
    for part in (inputs.train.images, inputs.held_out.images):
        chosen = evenly_spaced(len(part), MAXIMUM_USUAL)
        yield from fit_to_generated((part[place] for place in chosen), inputs)


def luminance(image: np.ndarray) -> np.ndarray:
    """float64 [H, W], 0 to 255, of a uint8 [H, W, 3] image."""
    return image.astype(np.float64) @ LUMA


def usual_range(values: Iterable[float]) -> tuple[float, float]:
    """The 5 % and 95 % quantiles of what real images have: a few odd ones widen no range."""
    low, high = np.quantile(np.fromiter(values, np.float64), [0.05, 0.95])
    return float(low), float(high)


def _middle(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    scale = min(image.shape[1] / width, image.shape[0] / height)
    across, down = width * scale, height * scale
    left, top = (image.shape[1] - across) / 2, (image.shape[0] - down) / 2
    box = (left, top, left + across, top + down)
    scaled = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.asarray(scaled)
