"""What MLflow knows of a training while it runs: its losses by step, and what it has shown."""

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from adire_assets.core.errors import UserError
from adire_assets.core.folders import temporary_folder
from adire_assets.core.project import Project
from adire_assets.tracking.backend import client
from adire_assets.tracking.runs import RECIPE_KEY, VALIDATION

if TYPE_CHECKING:
    from mlflow import MlflowClient

DAGSTER_RUN = "dagster_run_id"  # dagster-mlflow's tag: the run of Dagster that works on it, or did
RUN_ID = re.compile("[0-9a-f]{32}")
KEPT_HISTORIES = 64  # metrics of a run
_histories_lock = threading.Lock()
Latest = tuple[tuple[str, float], ...]
_histories: dict[tuple[str, str], tuple[Latest, dict[int, float]]] = {}


@dataclass(frozen=True)
class Followed:
    """What an adapter's run says of its training until now. `metrics`: {name: {step: value}}, where
    a training that went on from a checkpoint has each step once; `shown`: the steps at which it has
    shown samples."""

    run_id: str
    recipe_key: str
    parameters: dict[str, str]
    metrics: dict[str, dict[int, float]]
    shown: tuple[int, ...]
    artifacts: str  # the address of its files


def of_adapter(
    project: Project, model: str, metrics: Iterable[str], recipe_key: str
) -> Followed | None:
    """The training of an adapter; None when MLflow does not know it."""
    return _newest(project, model, metrics, f"tags.`{RECIPE_KEY}` = '{recipe_key}'")


def of_dagster_run(
    project: Project, model: str, metrics: Iterable[str], run_id: str
) -> Followed | None:
    """The training that a run of Dagster works on, or None. It is that of its adapter only until it
    has one: the evaluation of another run logs into the same training."""
    return _newest(project, model, metrics, f"tags.{DAGSTER_RUN} = '{run_id}'")


def latest(project: Project, model: str, metrics: Iterable[str]) -> Followed | None:
    """The latest training of a model, or None."""
    return _newest(project, model, metrics, f"tags.`{RECIPE_KEY}` LIKE '%'")


def _newest(project: Project, model: str, metrics: Iterable[str], query: str) -> Followed | None:
    with client(project) as mlflow:
        experiment = mlflow.get_experiment_by_name(model)
        if experiment is None:
            return None
        place, order = [experiment.experiment_id], ["attributes.start_time DESC"]
        found = mlflow.search_runs(place, query, order_by=order, max_results=1)
        if not found:
            return None
        run = found[0]
        run_id, tags = run.info.run_id, run.data.tags
        now = tuple(sorted(run.data.metrics.items()))
        told = {name: _history(mlflow, run_id, name, now) for name in metrics}
        folders = mlflow.list_artifacts(run_id, VALIDATION)
        steps = sorted(int(one.path.rpartition("-")[2]) for one in folders if one.is_dir)
        kept = run.info.artifact_uri
        return Followed(run_id, tags[RECIPE_KEY], dict(run.data.params), told, tuple(steps), kept)


def _history(mlflow: "MlflowClient", run_id: str, name: str, now: Latest) -> dict[int, float]:
    """{step: value} of a metric; `now` are the latest values of all, with which it changes."""
    kept = _histories.get((run_id, name))
    if kept and kept[0] == now:
        return kept[1]
    points = mlflow.get_metric_history(run_id, name) if name in dict(now) else []
    # A step that was learned again has its value twice.
    by_time = {point.step: point.value for point in sorted(points, key=lambda one: one.timestamp)}
    found = dict(sorted(by_time.items()))
    with _histories_lock:
        while len(_histories) >= KEPT_HISTORIES:
            _histories.pop(next(iter(_histories)))
        _histories[run_id, name] = now, found
    return found


def artifacts_of(project: Project, model: str, run_id: str) -> str:
    """The address of what a training of the model keeps. UserError when there is no such one."""
    with client(project) as mlflow:
        known = mlflow.get_experiment_by_name(model) if RUN_ID.fullmatch(run_id) else None
        query = f"attributes.run_id = '{run_id}'"
        found = mlflow.search_runs([known.experiment_id], query) if known else []
        if not found:
            raise UserError(f"{model} has no such training")
        return str(found[0].info.artifact_uri)


def shown_at(project: Project, run_id: str, artifacts: str, step: int) -> Path:
    """The folder of what a training, which keeps its files at the address `artifacts`, has shown at
    a step. UserError when it has shown nothing then."""
    name = f"{VALIDATION}/step-{step:06}"
    with client(project) as mlflow:
        files = [one.path for one in mlflow.list_artifacts(run_id, name) if not one.is_dir]
        if not files:
            raise UserError(f"the training {run_id} has shown nothing at step {step}")
        place = urlsplit(artifacts)
        if place.scheme == "file":
            return Path(unquote(place.path)) / name
        kept = project.home / "cache" / "shown" / run_id
        for path in files:
            if not (kept / path).is_file():
                with temporary_folder(project, project.home / "cache" / "fetched") as folder:
                    fetched = mlflow.download_artifacts(run_id, path, str(folder))
                    (kept / path).parent.mkdir(parents=True, exist_ok=True)
                    Path(fetched).replace(kept / path)
        return kept / name
