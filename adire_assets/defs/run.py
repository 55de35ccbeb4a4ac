"""Materializing from the terminal: the same assets, with a few lines of output.

What `adire materialize --select` means is Dagster's syntax, in a model's own names:

    lora_weights,dataset      these
    lora_weights+             and what is made from it, one step for each +
    +dataset                  and what it is made from, likewise
    *deployed_model           and all that it is made from
    key:lora_weights+         Dagster's language: all that is made from it; with and, or, not, ( )

A name stands for the model's own asset; one with the model in front (indigo/dataset) is taken too.
"""

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from adire_assets.config.model import load_model
from adire_assets.core.disk import require_room
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.defs import build_definitions
from adire_assets.line import sources
from adire_assets.line.changes import MODEL_TAG, WHY_TAG
from adire_assets.serving.fleet.processes import dagster_home

CLAUSE = re.compile(r"([*+]*)([\w/]+)([*+]*)")
# A key or a name, in quotes or not; or what is neither: another field with its text, a function, an
# operator, a count, a text.
WORDS = re.compile(
    r'key:(?P<a>"?)(?P<key>[\w/]+)(?P=a)|\w+:("[^"]*"|[\w/]*)|\w+\s*\(|\b(and|or|not|AND|OR|NOT)\b'
    r'|\b\d+\b|(?P<b>"?)(?P<name>[\w/]+)(?P=b)|"[^"]*"'
)


def materialize(project: Project, model: str, select: str | None = None) -> None:
    """Materialize what `select` says (default: all).

    A disabled model is materialized all the same: whoever names it wants it.
    Steps that do not depend on a failed one are carried out. UserError with a line for each gate
    that refused and each step that failed.
    """
    enabled = load_model(project, model).enabled
    warnings.simplefilter("ignore", dg.PreviewWarning)  # Dagster's own, about Pipes
    require_room(project.home)
    os.environ.setdefault("DAGSTER_HOME", str(dagster_home(project)))
    sys.path.insert(0, str(project.root))
    from dagster_defs import defs

    if not enabled:
        print(
            f"{model} is disabled in {project.model_file(model)}: it is materialized since you "
            "name it, but Dagster's UI does not show it and no sensor watches it",
            flush=True,
        )
        defs = build_definitions(project, also=model)
    graph = defs.resolve_asset_graph()
    known = line_of(graph, model)
    wanted = known if select is None else selected(model, select, graph)
    for sentence in left_behind(project, model, graph, wanted):
        print(sentence, flush=True)
    with _instance() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=wanted,
            raise_on_error=False,
            tags={MODEL_TAG: model, WHY_TAG: f"`adire materialize {model}`"},
            run_config={"loggers": {"lines": {}}},
        )
    if not result.success:
        raise UserError("\n".join(_failures(result)) or f"{model}: the run did not finish")


def line_of(graph: Any, model: str) -> list[dg.AssetKey]:
    """The model's assets in an AssetGraph, in its order."""
    return [key for key in graph.toposorted_asset_keys if key.path[0] == model]


def selected(model: str, text: str, graph: Any) -> list[dg.AssetKey]:
    """The model's assets that `text` selects in an AssetGraph, in the order of the graph.

    UserError when a name is none of the model's, the text is no selection, or it selects nothing.
    """
    known = line_of(graph, model)
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


def left_behind(
    project: Project,
    model: str,
    graph: Any,  # an AssetGraph, whose class is not public
    wanted: Sequence[dg.AssetKey],
) -> Iterator[str]:
    """A sentence for each source right above `wanted` that differs from the working tree."""
    above = {parent for one in wanted for parent in graph.get(one).parent_keys}.difference(wanted)
    for name in sources.SOURCES:
        made = project.records.read(f"references/latest/{model}/{name}").value
        if made is None or dg.AssetKey([model, name]) not in above:
            continue
        try:
            changed = made["key"] != sources.source_key(project, model, name)
        except UserError as error:  # what was selected needs the source of then only
            yield f"{model}: cannot tell whether {name} has changed since then: {error}"
            continue
        if changed:
            yield (
                f"{model}: {name} has changed since it was materialized, and what you selected is "
                f"made from the one of then; for the one of now: --select "
                f"{','.join([name, *(one.path[-1] for one in wanted)])}"
            )


def _instance() -> dg.DagsterInstance:
    try:
        return dg.DagsterInstance.get()
    except dg.DagsterInvariantViolationError as error:
        raise UserError(f"DAGSTER_HOME: {error}") from None


def _failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """One sentence for each check that refused and each failed step: the cause, without Dagster's
    wrapping."""
    refused = (
        f"{check.asset_key.to_user_string()}: refused by the gate {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    )
    causes = map(_cause, result.get_step_failure_events())
    return list(dict.fromkeys([*refused, *filter(None, causes)]))  # two checks may say the same


def _cause(event: dg.DagsterEvent) -> str | None:
    error, facts = event.step_failure_data.error, event.step_failure_data.user_failure_data
    if error and error.cls_name == "DagsterAssetCheckFailedError":  # the check itself says why
        return None
    while error and error.cause:
        error = error.cause
    text = (facts and facts.description) or (error and error.message)
    return f"{str(event.step_key).replace('__', '/')}: {text}"
