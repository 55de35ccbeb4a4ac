"""The schema of a language model's YAML: the sections that only this family has."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import regex
from pydantic import AfterValidator, Field, field_validator, model_validator

from adire_assets.config import model
from adire_assets.config.weights import FilePath, ModelSource
from adire_assets.config.yaml_file import EffectiveOnlyWith, MisplacedKey, Strict, distinct
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.families.causal_lm.gates import GateConfig
from adire_assets.families.causal_lm.training.settings import NOT_SEARCHED, TrainingConfig
from adire_assets.families.training.config_checks import (
    require_searchable,
    require_validation_split,
    require_validations_before_the_end,
)

PersonalData = Literal["email", "phone", "card", "iban", "secret"]
Key = Annotated[str, Field(min_length=1, max_length=100)]


class BaseModelSource(ModelSource):
    """A base model; its files have one name each, so that there are no variants."""

    @field_validator("variant")
    @classmethod
    def _no_variant(cls, value: str | None) -> None:
        if value is not None:
            raise ValueError("a language model has no variants; take it out")


class DataConfig(model.SplitDataConfig):
    """Which records, and how they become a dataset; `path` is a folder of JSON and JSONL files."""

    # auto: found by the content of each file.
    format: Literal["auto", "alpaca", "messages", "sharegpt"] = "auto"
    # Stands before the conversations that have none of their own.
    system_prompt: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    ignored_keys: Annotated[list[Key], AfterValidator(distinct)] = []  # of a record, left out
    minimum_examples: Annotated[int, Field(ge=2, le=100_000_000)] = 20
    # Jaccard similarity of the character 5-grams of question and answer.
    near_duplicate_similarity: Annotated[float, Field(ge=0.5, le=1)] = 0.9
    # Kinds that may stand in the data; any other is refused where it is found.
    allow_personal_data: Annotated[list[PersonalData], AfterValidator(distinct)] = []
    # ISO 3166 codes of where telephone numbers without a + belong.
    phone_regions: Annotated[list[str], AfterValidator(distinct)] = ["NG", "CN", "US", "GB"]
    license: Annotated[str, Field(min_length=1, max_length=200)] | None = None  # an SPDX identifier

    @field_validator("phone_regions")
    @classmethod
    def _known_regions(cls, value: list[str]) -> list[str]:
        from phonenumbers import SUPPORTED_REGIONS

        if unknown := [one for one in value if one not in SUPPORTED_REGIONS]:
            raise ValueError(f"{unknown[0]} is no region; use ISO 3166 codes such as NG or CN")
        return value


class GeneralPrompt(Strict):
    """A question that has nothing to do with the data; the expected answer where there is one."""

    prompt: Annotated[str, Field(min_length=1, max_length=10_000)]
    reference: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    language: Annotated[str, Field(max_length=10)] = ""


class JudgeConfig(Strict):
    """A language model that grades the greedy answers from 1 to 10, at an address with OpenAI's
    interface; its key is the environment variable ADIRE_JUDGE_KEY."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]  # such as http://host:8000/v1
    model: Annotated[str, Field(min_length=1, max_length=200)]
    instruction: Annotated[str, Field(min_length=1, max_length=10_000)] = (
        "You grade the answer of an assistant. Judge whether it does what the question asks, is "
        "right in every fact, says all that the reference answer says where there is one, and is "
        "well worded. Do not reward length. End with one line: Grade: a number from 1 (useless) "
        "to 10 (perfect)."
    )
    parallel_requests: Annotated[int, Field(ge=1, le=64)] = 4
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0  # of a request


def _expression(text: str) -> str:
    try:
        regex.compile(text)
    except regex.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


class EvaluationConfig(model.EvaluationConfig):
    """How an adapter is evaluated: held-out questions and general ones, answered greedily and
    `samples` times drawn."""

    ONLY_WITH = {
        key: (EffectiveOnlyWith("samples", "samples: 1", lambda asked: asked.samples > 0),)
        for key in ("temperature", "top_p")
    }

    prompts_maximum: Annotated[int, Field(ge=2, le=10_000)] = 60  # held-out questions
    general_prompts: FilePath | None = None  # JSONL: prompt, and perhaps reference and language
    samples: Annotated[int, Field(ge=0, le=16)] = 1
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] = 256  # of an answer
    latency_answers: Annotated[int, Field(ge=3, le=100)] = 8
    # What a refusal says; without any, no answer counts as one.
    refusal_patterns: list[Annotated[str, AfterValidator(_expression)]] = []
    judge: JudgeConfig | None = None
    toxic_words: FilePath | None = None  # a text file, one word or phrase a line
    gates: GateConfig = GateConfig()

    def settings(self, project: Project) -> dict[str, Any]:
        """`general_prompts` are questions as an evaluation asks them."""
        settings = super().settings(project)
        settings["general_prompts"] = [
            {
                "messages": [{"role": "user", "content": one.prompt}],
                "reference": one.reference,
                "slots": {},
                "language": one.language,
            }
            for one in self.read_general_prompts(project)
        ]
        return settings

    def read_general_prompts(self, project: Project) -> list[GeneralPrompt]:
        """The file's. UserError with file and line of what is wrong."""
        if self.general_prompts is None:
            return []
        file = project.inside(self.general_prompts, "evaluation.general_prompts")
        if not file.is_file():
            raise UserError(f"evaluation.general_prompts: {file} does not exist; name a JSONL file")
        found = []
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
            try:
                found += [GeneralPrompt.model_validate(json.loads(line))] if line.strip() else []
            except ValueError as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"{file}:{number}: {reason}") from None
        return found

    def files(self) -> list[str]:
        return [one for one in (self.general_prompts, self.toxic_words) if one is not None]


def read_words(project: Project, named: str, key: str) -> list[str]:
    """The words of a text file, one a line, sorted. UserError when it is not there."""
    file = project.inside(named, key)
    if not file.is_file():
        raise UserError(f"{key}: {file} does not exist; name a list of words")
    lines = file.read_text(encoding="utf-8").splitlines()
    return sorted({line.strip() for line in lines if line.strip()})


class ServingConfig(model.ServingConfig):
    """Limits on what a request may ask for."""

    ONLY_WITH = {
        "moderation_words": (
            EffectiveOnlyWith(
                "moderation", "moderation: flag or refuse", lambda own: own.moderation != "off"
            ),
        )
    }

    # vllm: a vLLM with OpenAI's interface; triton: a vLLM inside of a Triton, streamed over gRPC.
    engine: Literal["vllm", "triton"] = "vllm"
    maximum_model_length: Annotated[int, Field(ge=16, le=1_000_000)] = 1024  # question and answer
    maximum_tokens: Annotated[int, Field(ge=1, le=100_000)] = 512  # of an answer
    maximum_lora_rank: Literal[8, 16, 32, 64, 128, 256] = 16
    parity_answers: Annotated[int, Field(ge=1, le=64)] = 4  # that a release must repeat
    # Prompts and answers with a word of the list are counted (flag), and refused.
    moderation: Literal["off", "flag", "refuse"] = "off"
    moderation_words: FilePath | None = None  # a text file, one word or phrase a line

    @model_validator(mode="after")
    def _something_to_look_for(self) -> Self:
        if self.moderation != "off" and self.moderation_words is None:
            raise MisplacedKey(
                f"is {self.moderation}, and moderation_words names no list; name a text file with "
                "one word a line, or set it to off",
                ("moderation",),
            )
        return self

    def settings(self, project: Project) -> dict[str, Any]:
        """`moderation_words` are the words."""
        named, settings = self.moderation_words, super().settings(project)
        if named is not None:
            words = read_words(project, named, "serving.moderation_words")
            settings["moderation_words"] = words
        return settings

    def files(self) -> list[str]:
        return [] if self.moderation_words is None else [self.moderation_words]

    def policy(self) -> dict[str, Any]:
        return {"parity_answers": self.parity_answers}


class CausalLMConfig(model.ModelConfig):
    """The content of configs/models/<name>.yaml for `family: causal_lm`."""

    family: Literal["causal_lm"]
    data: DataConfig
    base_model: BaseModelSource
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()

    def weights(self) -> dict[str, ModelSource]:
        return {"base_model": self.base_model}

    @model_validator(mode="after")
    def _search_and_validation_can_do_what_they_say(self) -> Self:
        require_searchable(self.search, self.training, NOT_SEARCHED)
        require_validations_before_the_end(self.search, self.training)
        fraction = self.data.validation_fraction
        require_validation_split(fraction, self.search, self.training, example="example")
        if self.training.num_validation_answers and not fraction:
            raise MisplacedKey(
                "has no effect while data.validation_fraction is 0: there are no validation "
                "questions to answer",
                ("training", "num_validation_answers"),
            )
        return self

    @model_validator(mode="after")
    def _evaluation_can_be_served(self) -> Self:
        if self.evaluation.max_tokens > self.serving.maximum_tokens:
            raise MisplacedKey(
                f"is {self.evaluation.max_tokens}, but serving.maximum_tokens is "
                f"{self.serving.maximum_tokens}; a release must be able to repeat what was "
                "evaluated",
                ("evaluation", "max_tokens"),
            )
        ranks = [self.training.rank, *self.training.rank_pattern.values()]
        if max(ranks) > self.serving.maximum_lora_rank:
            raise MisplacedKey(
                f"is {max(ranks)}, but serving.maximum_lora_rank is "
                f"{self.serving.maximum_lora_rank}; lower it, or raise that",
                ("training", "rank"),
            )
        return self

    def require_files(self, project: Project, path: Path) -> None:
        """UserError for general prompts that cannot be read."""
        self.evaluation.read_general_prompts(project)
