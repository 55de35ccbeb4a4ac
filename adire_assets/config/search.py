"""The schema of a model's `search` section: which training settings `adire search` tries."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from adire_assets.config.yaml_file import Strict, distinct


class SearchRange(Strict):
    """Values of one training key: a list, or numbers between two bounds (whole ones for a whole
    number)."""

    choices: (
        Annotated[list[bool | int | float | str], Field(min_length=2), AfterValidator(distinct)]
        | None
    ) = None
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
