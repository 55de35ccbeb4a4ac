"""dagster-mlflow for assets, loaded on use and with its faults mended.

`mlflow.run(context, model=..., recipe_key=...)` is a context that yields `dagster_mlflow.MlFlow`,
bound to the one MLflow run of that recipe key: whoever races for it or comes back to it (another
step, another process, the evaluation of the adapter) gets the same run. All of MLflow's functions
are there; `log_params`, `log_metrics`, `set_tags`, `log_artifact` and `log_artifacts` name the run,
so they also work from other threads, and may be repeated.

dagster-mlflow's own resource has one MLflow run for each Dagster run, so its class is made here,
with the resource's context, for each run of a recipe key.

On leaving, the run is FINISHED, FAILED (exception) or KILLED (interrupt), and MLflow's thread-local
and process-wide state is as before, so that a later step starts clean and nothing that happens at
exit changes a status.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import PrivateAttr

from adire_assets.core.project import Project
from adire_assets.tracking import backend, runs

if TYPE_CHECKING:
    from dagster_mlflow.resources import MlFlow

# What MLflow sets for its child processes, for as long as the run is active here.
INHERITED = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")


class MlflowTracking(dg.ConfigurableResource):
    """The project's MLflow; `project_root` is the folder that `Project.find` starts from."""

    project_root: str
    _context: Any = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        self._context = context

    def runner(
        self, context: dg.AssetExecutionContext, model: str
    ) -> Callable[[str], AbstractContextManager["MlFlow"]]:
        """`run` for the asset that `context` belongs to, to be called with a recipe key."""
        return partial(self.run, context, model)

    @contextmanager
    def run(
        self, context: dg.AssetExecutionContext, model: str, recipe_key: str
    ) -> "Iterator[MlFlow]":
        """The run of `recipe_key`, active inside the block. UserError when MLflow is unusable."""
        project = Project.find(Path(self.project_root))
        runs.end_abandoned(project, model)
        run_id = runs.training_run(project, model, recipe_key).run_id
        with runs.active(project, run_id), backend.answers(project):
            context.log.info(f"MLflow: run {run_id} of experiment {model}")
            with _fluent(project, self._context, model, run_id) as mlflow:
                # dagster-mlflow gave it its job's name.
                runs.rename(project, run_id, runs.run_name(model, recipe_key))
                yield mlflow


@contextmanager
def _fluent(
    project: Project, context: dg.InitResourceContext, model: str, run_id: str
) -> "Iterator[MlFlow]":
    """`MlFlow` with `run_id` as this thread's active run; all traces are removed afterwards."""
    import mlflow

    if active := mlflow.active_run():
        raise RuntimeError(f"MLflow run {active.info.run_id} is active already in this thread")
    before = {name: os.environ.get(name) for name in INHERITED}
    uri = backend.tracking_uri(project)
    settings = {"experiment_name": model, "mlflow_tracking_uri": uri, "mlflow_run_id": run_id}
    try:
        with warnings.catch_warnings():
            for category in (dg.BetaWarning, DeprecationWarning):  # held by the pin and the tests
                warnings.simplefilter("ignore", category)
            bound = _bound(project, run_id)(context.replace_config(settings))
        yield bound
    finally:
        # `tracking.active` decides the status; this only takes the run off the thread's stack.
        try:
            while mlflow.active_run():
                mlflow.end_run(status="RUNNING")
        finally:
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _bound(project: Project, run_id: str) -> "type[MlFlow]":
    """`MlFlow` whose logging names the run and may be repeated."""
    from dagster_mlflow.resources import MlFlow

    class BoundMlFlow(MlFlow):
        log_params = staticmethod(partial(runs.log_parameters, project, run_id))
        log_metrics = staticmethod(partial(runs.log_metrics, project, run_id))
        set_tags = staticmethod(partial(runs.log_tags, project, run_id))

        @staticmethod
        def log_artifact(local_path: str, artifact_path: str | None = None) -> None:
            runs.log_artifacts(project, run_id, [Path(local_path)], artifact_path or "")

        @staticmethod
        def log_artifacts(local_dir: str, artifact_path: str | None = None) -> None:
            runs.log_folder(project, run_id, Path(local_dir), artifact_path or "")

    return BoundMlFlow
