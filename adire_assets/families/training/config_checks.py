"""What a YAML is checked for as a whole: a search and a training can do what they say.

Each function is called by the family's schema while it is read, and raises what pydantic tells with
the key's line: ValueError, or MisplacedKey with the key.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from pydantic import ValidationError

from adire_assets.config.search import SearchConfig
from adire_assets.config.yaml_file import MisplacedKey, without_idle
from adire_assets.families.training.settings import SharedTrainingConfig


def require_searchable(
    search: SearchConfig | None, training: SharedTrainingConfig, not_searched: Mapping[str, str]
) -> None:
    """Training allows every value that may be tried, and every two of them together.

    `not_searched`: keys of training that no search may try, and why.
    """
    schema = type(training)
    fields = schema.model_fields
    tried: list[tuple[str, Any]] = []
    for name, given in (search.parameters if search else {}).items():
        if name not in fields:
            raise ValueError(f"search.parameters.{name}: training has no such key")
        if why := not_searched.get(name):
            raise ValueError(f"search.parameters.{name}: {why}")
        values: list[Any] = [*(given.choices or (given.low, given.high))]
        for value in values:
            whole = fields[name].annotation is int and isinstance(value, float)
            tried.append((name, int(value) if whole and value.is_integer() else value))
    alone = [(one,) for one in tried]
    for chosen in (*alone, *(two for two in combinations(tried, 2) if two[0][0] != two[1][0])):
        # What has no effect beside these values is left out of such a trial.
        trial = without_idle(schema, {**training.model_dump(), **dict(chosen)})
        effective = dict(chosen) if len(chosen) == 1 else {}  # alone, a value must be so
        try:
            schema.model_validate({**trial, **effective})
        except ValidationError as error:
            [first, *_] = error.errors()
            why = (first.get("ctx") or {}).get("error") or first["msg"]
            (name, value), *others = chosen
            beside = "".join(f" beside {other}: {another}" for other, another in others)
            raise ValueError(f"search.parameters.{name}: {value}{beside}: {why}") from None


def require_validations_before_the_end(
    search: SearchConfig | None, training: SharedTrainingConfig
) -> None:
    """A `search.validation_steps` that was set lets a trial be given up."""
    if search is None:
        return
    tried = search.parameters.get("max_train_steps")
    ends: list[Any] = [training.max_train_steps]
    if tried:
        ends = [tried.high] if tried.choices is None else [*tried.choices]
    longest = max(ends)
    steps = search.validation_steps
    if steps != SearchConfig.model_fields["validation_steps"].default and steps >= longest:
        raise MisplacedKey(
            f"validation_steps has no effect while max_train_steps is {longest}: no trial can "
            "be given up before its end; set it to fewer, or take it out",
            ("search", "validation_steps"),
        )


def require_validation_split(
    fraction: float,
    search: SearchConfig | None,
    training: SharedTrainingConfig,
    *,
    example: str,
    otherwise: str = "",
    needless: bool = False,
) -> None:
    """There is a validation split for what chooses by it; `fraction` is its share of the data.

    `example` is what the split holds, in a word; `otherwise` and `needless`: what else gives
    `validation_steps` an effect, and whether it does.
    """
    if fraction:
        return
    lacking = (
        f"no {example} is a validation {example}: data.validation_fraction is 0; set it to 0.1"
    )
    if training.keep_checkpoint == "best":
        raise MisplacedKey(
            f"best is chosen by validation {example}s, and {lacking}, or keep_checkpoint to last",
            ("training", "keep_checkpoint"),
        )
    if search:
        raise MisplacedKey(
            f"trials are compared by validation {example}s, and {lacking}, or leave search out",
            ("search",),
        )
    if training.validation_steps and not needless:
        raise MisplacedKey(
            f"has no effect, because {lacking}{otherwise}", ("training", "validation_steps")
        )
