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
# A key or a name, in quotes or not; or what is neither: another field with its text, a function, an
# operator, a count, a text.
WORDS = re.compile(
    r'key:(?P<a>"?)(?P<key>[\w/]+)(?P=a)|\w+:("[^"]*"|[\w/]*)|\w+\s*\(|\b(and|or|not|AND|OR|NOT)\b'
    r'|\b\d+\b|(?P<b>"?)(?P<name>[\w/]+)(?P=b)|"[^"]*"'
)


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
    has = f"has: {', '.join(names)}"
    if not part:
        raise UserError(f"--select: there is no name where one is expected; {model} {has}")

    def own(name: str) -> str:
        if name.removeprefix(f"{model}/") not in names:
            raise UserError(f"{model} has no asset {name}; it {has}")
        return f"{model}/{name.removeprefix(f'{model}/')}"

    def keyed(word: re.Match[str]) -> str:
        if word["key"] and word["key"].removeprefix(f"{model}/") in names:
            return f'key:"{own(word["key"])}"'
        return f'key:"{own(word["name"])}"' if word["name"] else word[0]

    if clause := CLAUSE.fullmatch(part):
        full = f"{clause[1]}{own(clause[2])}{clause[3]}"
    else:
        full = WORDS.sub(keyed, part)
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
