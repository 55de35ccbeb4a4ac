"""The schema of a language model's YAML: the sections that only this family has."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from adire_assets.config import model
from adire_assets.config.yaml_file import distinct

PersonalData = Literal["email", "phone", "card", "iban", "secret"]
Key = Annotated[str, Field(min_length=1, max_length=100)]


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
