"""What an evaluation asks for: a prompt set of configs/prompts/, the config's prompts, or captions.

A prompt set is a YAML file under version control. `attributes` lists what the judge can be asked
about an image, each value with the text that stands for it in zero-shot classification; a prompt
says by `expected` which values its image should show, and by `tags` how results are grouped:

    attributes:
      motif: {circles: "oniko tied circles", grid: "eleko painted grid"}
    prompts:
      - {id: rows, text: "circles in rows", tags: [oniko], expected: {motif: circles}}

Nothing here loads numpy or torch: Dagster's processes read prompt sets as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from adire_assets.config.yaml_file import MisplacedKey, Strict, distinct, load
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json_lines

MAXIMUM_CAPTIONS = 64  # of the held-out images; prompts that somebody listed are never cut
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


def normalize_prompt(text: str) -> str:
    """A prompt as CLIP's tokenizer reads it, which knows neither capitals nor more than one space:
    two that read the same are one prompt, and no evidence of their own."""
    return " ".join(text.split()).lower()


class Prompt(Strict):
    """One prompt; `id` names it in reports and across versions of its text."""

    id: Word
    text: Text
    tags: Annotated[list[Word], AfterValidator(distinct)] = []
    expected: dict[Word, Word] = {}  # attribute -> value


class PromptSet(Strict):
    """The content of configs/prompts/<name>.yaml."""

    attributes: dict[Word, Annotated[dict[Word, Text], Field(min_length=2)]] = {}
    prompts: Annotated[list[Prompt], Field(min_length=1)]

    @model_validator(mode="after")
    def _values_can_be_told_apart(self) -> Self:
        for attribute, texts in self.attributes.items():
            seen: dict[str, str] = {}
            for value, text in texts.items():
                first = seen.setdefault(normalize_prompt(text), value)
                if first != value:
                    raise MisplacedKey(
                        f"is the text of {first} too", ("attributes", attribute, value)
                    )
        return self

    @model_validator(mode="after")
    def _expected_values_exist(self) -> Self:
        for place, prompt in enumerate(self.prompts):
            for attribute, value in prompt.expected.items():
                here = ("prompts", place, "expected", attribute)
                if attribute not in self.attributes:
                    known = ", ".join(self.attributes) or "none"
                    raise MisplacedKey(f"no such attribute; attributes of this file: {known}", here)
                if value not in self.attributes[attribute]:
                    known = ", ".join(self.attributes[attribute])
                    raise MisplacedKey(f"{value!r} is no value of {attribute}: {known}", here)
        return self

    @model_validator(mode="after")
    def _no_prompt_twice(self) -> Self:
        for key in ("id", "text"):
            seen: dict[str, int] = {}
            for place, prompt in enumerate(self.prompts):
                first = seen.setdefault(normalize_prompt(getattr(prompt, key)), place)
                if first != place:
                    raise MisplacedKey(
                        f"is that of prompts.{first} as well", ("prompts", place, key)
                    )
        return self


def load_prompt_set(path: Path) -> PromptSet:
    """The file at `path`. UserError with file, line and key of what is wrong."""
    return load(path, PromptSet)


def choose_prompts(evaluation: Mapping[str, Any], captions: Sequence[str]) -> tuple[list[str], int]:
    """(texts to draw, captions left out) of resolved evaluation settings.

    Those of the prompt set, else of the config, else the first different captions.
    """
    if evaluation["prompt_set"]:
        return [prompt["text"] for prompt in evaluation["prompt_set"]["prompts"]], 0
    if evaluation["prompts"]:
        return list(evaluation["prompts"]), 0
    first: dict[str, str] = {}
    for caption in captions:
        first.setdefault(normalize_prompt(caption), caption)
    unique = list(first.values())
    return unique[:MAXIMUM_CAPTIONS], max(0, len(unique) - MAXIMUM_CAPTIONS)


def read_rows(dataset: Path, part: str) -> list[dict[str, Any]]:
    """The rows of a dataset artifact's part, "train" or "held_out". UserError when it is empty."""
    path = dataset / f"{part}.jsonl"
    rows = read_json_lines(path)
    if not rows:
        change = "raise" if part == "held_out" else "lower"
        raise UserError(f"{path} holds no images; {change} data.held_out_fraction")
    return rows
