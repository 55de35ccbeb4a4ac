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
    """A sentence for each root right above `wanted` that is not what the working tree says now."""
    for name in sources.SOURCES:
        root = dg.AssetKey([model, name])
        made = project.records.read(f"references/latest/{model}/{name}").value
        below = any(root in graph.get(one).parent_keys for one in wanted)
        if not below or root in wanted or made is None:
            continue
        try:
            changed = made["key"] != sources.source_key(project, model, name)
        except UserError as error:  # what was selected needs the root of then only
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
    """One sentence for each failed step: the cause, without Dagster's wrapping."""
    sentences = []
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
                asset = check.asset_key.to_user_string()
                sentences.append(f"{asset}: refused by the gate {check.description}")
        if not event.is_step_failure or sentences:
            continue
        error = event.step_failure_data.error
        while error and error.cause:
            error = error.cause
        metadata = event.step_failure_data.user_failure_data
        text = metadata.description if metadata and metadata.description else None
        step = str(event.step_key).replace("__", "/")
        sentences.append(f"{step}: {text or (error and error.message)}")
    return list(dict.fromkeys(sentences))  # two checks may say the same
