"""The schema of a model's `training` section, and which of its keys a search may try.

The keys carry the names of diffusers' own `train_dreambooth_lora.py`.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from adire_assets.config.yaml_file import EffectiveOnlyWith, MisplacedKey, Strict, distinct
from adire_assets.families.diffusion.training.adapter_types import ADAPTER_TYPES
from adire_assets.families.diffusion.training.augmentations import AUGMENTATIONS, names_of
from adire_assets.families.diffusion.training.objectives import OBJECTIVES
from adire_assets.families.diffusion.training.optimizers import OPTIMIZERS

LEARNS_TEXT = EffectiveOnlyWith(
    "train_text_encoder", "train_text_encoder: true", lambda t: t.train_text_encoder
)
PRESERVES = EffectiveOnlyWith(
    "with_prior_preservation",
    "with_prior_preservation: true",
    lambda t: t.with_prior_preservation,
)
SHOWS = EffectiveOnlyWith("validation_prompt", "a validation_prompt", lambda t: t.validation_prompt)
ADAM = EffectiveOnlyWith("optimizer", "optimizer: adamw", lambda t: t.optimizer != "adafactor")
Rank = Annotated[int, Field(ge=1, le=1024)]
Endings = Annotated[list[str], Field(min_length=1), AfterValidator(distinct)]  # of modules' names


class TrainingConfig(Strict):
    """The names of diffusers' train_dreambooth_lora.py (SD1.5), where it has one."""

    ONLY_WITH = {
        "text_encoder_target_modules": (LEARNS_TEXT,),
        "lr_warmup_steps": (
            EffectiveOnlyWith(
                "lr_scheduler",
                "lr_scheduler: constant_with_warmup",
                lambda t: t.lr_scheduler != "constant",
            ),
        ),
        "adam_beta1": (ADAM,),
        "adam_beta2": (ADAM,),
        "adam_epsilon": (ADAM,),
        "ema_decay": (EffectiveOnlyWith("use_ema", "use_ema: true", lambda t: t.use_ema),),
        "class_prompt": (PRESERVES,),
        "num_class_images": (PRESERVES,),
        "prior_loss_weight": (PRESERVES,),
        "num_validation_images": (SHOWS,),
        "validation_num_inference_steps": (SHOWS, PRESERVES),  # class images are drawn so as well
        "validation_guidance_scale": (SHOWS, PRESERVES),
        "validation_steps": (
            EffectiveOnlyWith(
                "max_train_steps",
                "max_train_steps to as many at least",  # the end is looked at in any case
                lambda t: not t.validation_steps or t.validation_steps <= t.max_train_steps,
            ),
        ),
        "keep_checkpoint": (
            EffectiveOnlyWith(
                "validation_steps",
                "validation_steps below max_train_steps",  # else there is one to choose from
                lambda t: not t.validation_steps or t.validation_steps < t.max_train_steps,
            ),
        ),
        "distribution": (
            EffectiveOnlyWith(
                "num_processes", "num_processes: 2", lambda t: (t.num_processes or 1) > 1
            ),
            EffectiveOnlyWith("num_machines", "num_machines: 2", lambda t: t.num_machines > 1),
        ),
    }

    # The adapter
    adapter_type: Annotated[str, AfterValidator(ADAPTER_TYPES.known)] = "lora"
    rank: Rank = 4
    lora_alpha: Annotated[float, Field(gt=0, le=4096)] = 4.0
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Another rank for modules whose name ends so; their alpha keeps its ratio to the rank.
    rank_pattern: dict[str, Rank] = {}
    target_modules: Endings | None = None  # None: those of the base's architecture
    train_text_encoder: bool = False
    text_encoder_target_modules: Endings | None = None
    # The optimizer
    optimizer: Annotated[str, AfterValidator(OPTIMIZERS.known)] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 1e-4
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
    ] = "constant"
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    train_batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=1024)] = 4
    max_train_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 800
    checkpointing_steps: Annotated[int, Field(ge=1)] = 100
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-2
    adam_epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    use_ema: bool = False  # the adapter is the moving average of its weights
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
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
    validation_steps: Annotated[int, Field(ge=1)] | None = None  # default: at the end only
    keep_checkpoint: Literal["last", "best"] = "last"  # best: of the least validation loss
    # How it is computed
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    quantization: Literal["none", "4bit"] = "none"  # of the frozen denoiser, on a GPU (QLoRA)
    gradient_checkpointing: bool = False
    channels_last: bool = False
    torch_compile: bool = False
    deterministic: bool | None = None  # default: on the CPU, where it costs nothing
    # In all, on all machines; default: one, but on the CPU the cores share a small base's batch.
    num_processes: Annotated[int, Field(ge=1, le=1024)] | None = None
    num_machines: Annotated[int, Field(ge=1, le=1024)] = 1
    distribution: Literal["ddp", "fsdp"] = "ddp"  # of several processes

    @model_validator(mode="after")
    def _belong_together(self) -> "TrainingConfig":
        if self.lr_warmup_steps >= self.max_train_steps:
            raise MisplacedKey(
                f"lr_warmup_steps is {self.lr_warmup_steps} and max_train_steps "
                f"{self.max_train_steps}, so that the rate never comes to learning_rate; warm up "
                "for fewer steps, such as a tenth of them",
                ("lr_warmup_steps",),
            )
        if self.with_prior_preservation and self.class_prompt is None:
            raise ValueError("with_prior_preservation needs a class_prompt, for example: a photo")
        if self.keep_checkpoint == "best" and self.validation_steps is None:
            raise ValueError("keep_checkpoint: best needs validation_steps, for example 100")
        augmentations = names_of(self)
        if len(set(augmentations)) < len(augmentations):
            raise ValueError("augmentations has the same entry twice (random_flip is one of them)")
        if (self.num_processes or self.num_machines) % self.num_machines:
            raise ValueError("num_processes is counted on all machines: a multiple of num_machines")
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
