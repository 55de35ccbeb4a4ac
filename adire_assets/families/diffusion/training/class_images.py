"""Images of the class for prior preservation: what the bare base draws for `class_prompt`.

They keep the adapter from forgetting what it was not shown (Ruiz et al. 2023, DreamBooth). They are
a function of base, prompt and number, and are kept beside what else was computed once.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from adire_assets.core.disk import written_whole
from adire_assets.core.worker import Progress
from adire_assets.families.diffusion.engine.sampling import Request, Sampler
from adire_assets.families.diffusion.training.cache import Facts
from adire_assets.families.diffusion.training.settings import TrainingConfig

SEED = 2_000_000  # image i is drawn with this seed + i


def class_images(
    base: Path,
    variant: str | None,
    settings: TrainingConfig,
    folder: Path,
    facts: Facts,
    device: str,
    progress: Progress,
) -> list[Path]:
    """`num_class_images` PNG files below `folder`, drawn unless they are there; none if not asked.

    `facts`: what else makes them what they are, see `encoding.facts_of`.
    """
    if not settings.with_prior_preservation:
        return []
    place = folder / key_of(settings, facts)[:32]
    names = [place / f"{number:06}.png" for number in range(settings.num_class_images)]
    missing = [number for number, path in enumerate(names) if not path.is_file()]
    if not missing:
        return names
    progress(f"drawing {len(missing)} images of {settings.class_prompt!r}")
    sampler = Sampler(base, variant, None, device)
    for number in missing:
        [[pixels]] = sampler.generate([Request(seed=SEED + number, **_asked(settings))])
        with written_whole(names[number]) as temporary:
            Image.fromarray(pixels).save(temporary, "PNG")
    return names


def key_of(settings: TrainingConfig, facts: Facts) -> str:
    """The key of all class images of these settings, however many."""
    return facts.of(**_asked(settings)).key("class_images", class_images)


def _asked(settings: TrainingConfig) -> dict[str, Any]:
    scheduler = settings.validation_scheduler
    return {
        "prompt": settings.class_prompt,
        "num_inference_steps": settings.validation_num_inference_steps,
        "guidance_scale": settings.validation_guidance_scale,
        **({"scheduler": scheduler} if scheduler else {}),
    }
