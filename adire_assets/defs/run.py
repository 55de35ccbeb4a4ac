"""Materializing from the terminal: the same assets, told in a few lines."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from adire_assets.config.model import load_model
from adire_assets.core.disk import require_room
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.defs.selection import selected
from adire_assets.defs.sensors import MODEL_TAG
from adire_assets.line import sources
from adire_assets.serving.fleet.processes import dagster_home


def materialize(project: Project, model: str, select: str | None = None) -> None:
    """Materialize what `select` says (`selection`; default: all). UserError when a step fails."""
    if not load_model(project, model).enabled:
        raise UserError(f"{model} is disabled; set `enabled: true` in {project.model_file(model)}")
    warnings.simplefilter("ignore", dg.PreviewWarning)  # Dagster's own, about Pipes
    require_room(project.home)
    os.environ.setdefault("DAGSTER_HOME", str(dagster_home(project)))
    sys.path.insert(0, str(project.root))
    from dagster_defs import defs

    graph = defs.resolve_asset_graph()
    known = [key for key in graph.toposorted_asset_keys if key.path[0] == model]
    wanted = known if select is None else selected(model, select, graph)
    for sentence in left_behind(project, model, graph, wanted):
        print(sentence, flush=True)
    with _instance() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=wanted,
            raise_on_error=False,
            tags={MODEL_TAG: model},
            run_config={"loggers": {"lines": {}}},
        )
    if not result.success:
        raise UserError("\n".join(_failures(result)) or f"{model}: the run did not finish")


def left_behind(
    project: Project,
    model: str,
    graph: Any,  # an AssetGraph, whose class is not public
    wanted: Sequence[dg.AssetKey],
) -> Iterator[str]:
    """A sentence for each source right above `wanted` that is not what the working tree says
    now."""
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
