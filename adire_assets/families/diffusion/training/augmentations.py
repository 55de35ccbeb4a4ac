"""What may be done to a training image, each in a fixed number of versions.

Versions are numbered, so that a latent that was encoded once is found again. A function takes an
image in mode RGB and the number of the version, and keeps the size; version 0 is the image itself.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image

from adire_assets.families.training.registry import Registry

if TYPE_CHECKING:
    from adire_assets.families.diffusion.training.settings import TrainingConfig

AUGMENTATIONS = Registry("augmentation")
VERSIONS: dict[str, int] = {}  # how many each has

Augmentation = Callable[[Image.Image, int], Image.Image]


def names_of(settings: "TrainingConfig") -> tuple[str, ...]:
    """All that are in use, in their order; `random_flip` has a key of its own."""
    return (*(["random_flip"] if settings.random_flip else []), *settings.augmentations)


def augmentation(versions: int) -> Callable[[Augmentation], Augmentation]:
    """Register a function that has this many versions of an image."""

    def register(function: Augmentation) -> Augmentation:
        VERSIONS[function.__name__] = versions
        return AUGMENTATIONS.register(function)

    return register


@augmentation(versions=2)
def random_flip(image: Image.Image, version: int) -> Image.Image:
    """Left to right, half of the time."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if version else image


@augmentation(versions=2)
def random_vertical_flip(image: Image.Image, version: int) -> Image.Image:
    """Upside down, half of the time."""
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if version else image


@augmentation(versions=2)
def random_half_turn(image: Image.Image, version: int) -> Image.Image:
    """Turned by 180 degrees, half of the time."""
    return image.transpose(Image.Transpose.ROTATE_180) if version else image
