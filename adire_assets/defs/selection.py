"""Which assets `adire materialize --select` means: Dagster's syntax, in a model's own names.

    lora_weights,dataset      these
    lora_weights+             and what is made from it, one step for each +
    +dataset                  and what it is made from, likewise
    *deployed_model           and all that it is made from
    key:lora_weights+         Dagster's language: all that is made from it; with and, or, not, ( )

A name stands for the model's own asset; one with the model in front (indigo/dataset) is taken too.
"""

import re
import warnings
from typing import Any

import dagster as dg

from adire_assets.core.errors import UserError

CLAUSE = re.compile(r"([*+]*)([\w/]+)([*+]*)")
# A quoted text, `field:`, a function's name, a word, or any other character.
WORDS = re.compile(r'"[^"]*"|\w+:|\w+\s*\(|[\w/]+|.', re.DOTALL)
OPERATORS = ("and", "or", "not", "AND", "OR", "NOT")


def selected(model: str, text: str, graph: Any) -> list[dg.AssetKey]:
    """The model's assets that `text` selects in an AssetGraph, in the order of the graph.

    UserError when a name is none of the model's, the text is no selection, or it selects nothing.
    """
    known = [key for key in graph.toposorted_asset_keys if key.path[0] == model]
    names = [key.path[-1] for key in known]
    found: set[dg.AssetKey] = set()
    for part in text.split(","):
        found |= _one(model, part.strip(), names, graph)
    wanted = [key for key in known if key in found]
    if not wanted:
        raise UserError(
            f"--select {text!r} selects no asset of {model}; it has: {', '.join(names)}"
        )
    return wanted


def _one(model: str, part: str, names: list[str], graph: Any) -> set[dg.AssetKey]:
    """What a part between commas selects."""
    if not part:
        raise UserError(
            f"--select: there is no name where one is expected; {model} has: {', '.join(names)}"
        )
    clause = CLAUSE.fullmatch(part)
    if clause:
        full = f"{clause[1]}{model}/{_own(model, clause[2], names)}{clause[3]}"
    else:
        full = _in_dagsters_language(model, part, names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster's own, about itself
            return set(dg.AssetSelection.from_string(full).resolve(graph))
    except dg.DagsterError as error:
        raise UserError(
            f"--select {part!r} is no selection ({' '.join(str(error).split())}); write names, "
            "with + or * for what is above and below, or Dagster's language, for example "
            "'key:lora_weights+ and not key:deployed_model'"
        ) from None


def _in_dagsters_language(model: str, part: str, names: list[str]) -> str:
    """The part with each of the model's names as a key of its own."""
    found, field = [], ""
    for word in WORDS.findall(part):
        plain = word.strip('"')
        name = bool(re.fullmatch(r"[\w/]+", plain)) and not plain.isdecimal()
        if field == "key:" and name and plain.removeprefix(f"{model}/") in names:
            found.append(f'"{model}/{plain.removeprefix(f"{model}/")}"')
        elif field or not name or word in OPERATORS:
            found.append(word)
        else:
            found.append(f'key:"{model}/{_own(model, plain, names)}"')
        field = word if word.endswith(":") else ""
    return "".join(found)


def _own(model: str, name: str, names: list[str]) -> str:
    own = name.removeprefix(f"{model}/")
    if own not in names:
        raise UserError(f"{model} has no asset {name}; it has: {', '.join(names)}")
    return own
