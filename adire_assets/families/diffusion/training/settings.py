"""The schema of a model's `training` section, and which of its keys a search may try.

The keys carry the names of diffusers' own `train_dreambooth_lora.py`.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from adire_assets.config.yaml_file import EffectiveOnlyWith
from adire_assets.families.diffusion.schedulers import Scheduler
from adire_assets.families.diffusion.training.augmentations import AUGMENTATIONS, names_of
from adire_assets.families.diffusion.training.objectives import OBJECTIVES
from adire_assets.families.training.settings import Endings, SharedTrainingConfig

LEARNS_TEXT = EffectiveOnlyWith(
    "train_text_encoder", "train_text_encoder: true", lambda t: t.train_text_encoder
)
PRESERVES = EffectiveOnlyWith(
    "with_prior_preservation",
    "with_prior_preservation: true",
    lambda t: t.with_prior_preservation,
)
SHOWS = EffectiveOnlyWith("validation_prompt", "a validation_prompt", lambda t: t.validation_prompt)


class TrainingConfig(SharedTrainingConfig):
    """The names of diffusers' train_dreambooth_lora.py (SD1.5), where it has one."""

    ONLY_WITH = {
        **SharedTrainingConfig.ONLY_WITH,
        "text_encoder_target_modules": (LEARNS_TEXT,),
        "class_prompt": (PRESERVES,),
        "num_class_images": (PRESERVES,),
        "prior_loss_weight": (PRESERVES,),
        "num_validation_images": (SHOWS,),
        "validation_num_inference_steps": (SHOWS, PRESERVES),  # class images are drawn so as well
        "validation_guidance_scale": (SHOWS, PRESERVES),
        "validation_scheduler": (SHOWS, PRESERVES),
    }

    train_text_encoder: bool = False
    text_encoder_target_modules: Endings | None = None
    # What is minimised
    objective: Annotated[str, AfterValidator(OBJECTIVES.known)] = "mse"
    snr_gamma: Annotated[float, Field(gt=0, le=100)] | None = None  # Min-SNR weights; 5 is common
    noise_offset: Annotated[float, Field(ge=0, le=1)] = 0.0
    # What is looked at
    random_flip: bool = False
    center_crop: bool = True
    augmentations: list[Annotated[str, AfterValidator(AUGMENTATIONS.known)]] = []
    aspect_ratio_buckets: bool = False  # else every image is cropped to a square
    repeats: dict[str, Annotated[int, Field(ge=1, le=1000)]] = {}  # folder of images -> times
    proportion_empty_prompts: Annotated[float, Field(ge=0, le=1)] = 0.0
    with_prior_preservation: bool = False
    class_prompt: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    num_class_images: Annotated[int, Field(ge=1, le=100_000)] = 100
    prior_loss_weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    # What is seen of it
    validation_prompt: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    num_validation_images: Annotated[int, Field(ge=1, le=16)] = 4
    validation_num_inference_steps: Annotated[int, Field(ge=1, le=200)] = 30
    validation_guidance_scale: Annotated[float, Field(ge=0, le=30)] = 7.5
    validation_scheduler: Scheduler | None = None  # None: the base's own
    # How it is computed
    channels_last: bool = False

    @model_validator(mode="after")
    def _belong_together(self) -> "TrainingConfig":
        if self.with_prior_preservation and self.class_prompt is None:
            raise ValueError("with_prior_preservation needs a class_prompt, for example: a photo")
        augmentations = names_of(self)
        if len(set(augmentations)) < len(augmentations):
            raise ValueError("augmentations has the same entry twice (random_flip is one of them)")
        return self


OTHER_MEASURE = "it changes what the validation loss measures; search once for each of its values"
NO_DIFFERENCE = "it changes no validation loss; set it in training"
NOT_SEARCHED = {  # keys of training, and why
    **dict.fromkeys(("objective", "aspect_ratio_buckets"), OTHER_MEASURE),
    **dict.fromkeys(
        ("validation_prompt", "num_validation_images", "checkpointing_steps"), NO_DIFFERENCE
    ),
    "validation_steps": "set search.validation_steps, which is that of all trials",
}
