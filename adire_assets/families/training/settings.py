"""The keys of a `training` section that every family has.

They carry the names of diffusers' own training scripts.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from adire_assets.config.yaml_file import EffectiveOnlyWith, MisplacedKey, Strict, distinct
from adire_assets.families.training.adapter_types import ADAPTER_TYPES
from adire_assets.families.training.optimizers import OPTIMIZERS

ADAM = EffectiveOnlyWith("optimizer", "optimizer: adamw", lambda t: t.optimizer != "adafactor")
Rank = Annotated[int, Field(ge=1, le=1024)]
Endings = Annotated[list[str], Field(min_length=1), AfterValidator(distinct)]  # of modules' names


class SharedTrainingConfig(Strict):
    """How an adapter is trained, whatever it learns."""

    ONLY_WITH = {
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
    # What is seen of it
    validation_steps: Annotated[int, Field(ge=1)] | None = None  # default: at the end only
    keep_checkpoint: Literal["last", "best"] = "last"  # best: of the least validation loss
    # How it is computed
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    quantization: Literal["none", "4bit"] = "none"  # of the frozen base, on a GPU (QLoRA)
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    deterministic: bool | None = None  # default: on the CPU, where it costs nothing
    # In all, on all machines; default: one, but on the CPU the cores share a small base's batch.
    num_processes: Annotated[int, Field(ge=1, le=1024)] | None = None
    num_machines: Annotated[int, Field(ge=1, le=1024)] = 1
    distribution: Literal["ddp", "fsdp"] = "ddp"  # of several processes

    @model_validator(mode="after")
    def _steps_fit(self) -> "SharedTrainingConfig":
        if self.lr_warmup_steps >= self.max_train_steps:
            raise MisplacedKey(
                f"lr_warmup_steps is {self.lr_warmup_steps} and max_train_steps "
                f"{self.max_train_steps}, so that the rate never comes to learning_rate; warm up "
                "for fewer steps, such as a tenth of them",
                ("lr_warmup_steps",),
            )
        if self.keep_checkpoint == "best" and self.validation_steps is None:
            raise ValueError("keep_checkpoint: best needs validation_steps, for example 100")
        if (self.num_processes or self.num_machines) % self.num_machines:
            raise ValueError("num_processes is counted on all machines: a multiple of num_machines")
        if self.quantization == "4bit" and self.distribution == "fsdp":
            raise ValueError(
                "quantization: 4bit does not go with distribution: fsdp, which spreads no weights "
                "in 4 bits; use distribution: ddp"
            )
        return self
