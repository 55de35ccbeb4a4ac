"""The diffusion family: latent diffusion models (Stable Diffusion 1, 2 and XL), whose LoRA is
trained on captioned images. `FAMILY` is what the rest of the product knows of it.
"""

from adire_assets.core.family import Family

FAMILY = Family(
    name="diffusion",
    config=f"{__name__}.config:DiffusionConfig",
    plumbing=(f"{__name__}.config", f"{__name__}.training.settings"),
)
