"""Dagster's handles on the core: references between assets, child processes under Pipes, MLflow.

`project_root` is the folder that `Project.find` starts from.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dagster as dg
from pydantic import PrivateAttr

from adire_assets.core.disk import refusal
from adire_assets.core.errors import UserError
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store
from adire_assets.core.worker import RunWorker
from adire_assets.tracking import backend, runs

if TYPE_CHECKING:
    from dagster_mlflow.resources import MlFlow

StepContext = dg.AssetExecutionContext | dg.OpExecutionContext
# What MLflow sets for its child processes, for as long as the run is active here.
INHERITED = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")


class ReferenceIOManager(dg.ConfigurableIOManager):
    """Hands references (never content) from asset to asset, those of the same run first.

    An asset that is not part of the run gives the reference of its latest materialization. The
    files lie in <home>/references, so a selection works with any or no DAGSTER_HOME.
    """

    project_root: str

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Hold the run's lock as long as its process lives, so that a killed run can be told."""
        with ExitStack() as held:
            if context.run:
                held.enter_context(self._project.locks.acquire(f"run-{context.run.run_id}"))
            yield self

    def handle_output(self, context: dg.OutputContext, obj: dict[str, Any]) -> None:
        for run in (context.run_id, "latest"):
            self._project.records.change(_name(run, context.asset_key), lambda _: obj)

    def load_input(self, context: dg.InputContext) -> Artifact:
        with answered():
            for run in (context.step_context.run_id, "latest"):
                if reference := self._project.records.read(_name(run, context.asset_key)).value:
                    return Store(self._project).open(reference)
            key = context.asset_key.to_user_string()
            raise UserError(
                f"{key} was never materialized; materialize it first, or the whole graph"
            )

    @property
    def _project(self) -> Project:
        return Project.find(Path(self.project_root))


def _name(run: str, key: dg.AssetKey) -> str:
    return "/".join(("references", run, *key.path))


@contextmanager
def answered() -> Iterator[None]:
    """Show a user's mistake, or what the disk refuses, as one sentence, and do not retry it."""
    try:
        yield
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except Exception as error:
        if sentence := refusal(error):
            raise dg.Failure(sentence, allow_retries=False) from error
        raise


class ChildProcesses(dg.ConfigurableResource):
    """Runs the core's worker functions in children under Dagster Pipes."""

    project_root: str

    def runner(self, context: StepContext) -> RunWorker:
        """`run` for the asset or the check that `context` belongs to."""
        return partial(self.run, context)

    def run(
        self,
        context: StepContext,
        function: str,
        *,
        launcher: tuple[str, ...] = (),
        recorder: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """The worker's result. UserError with its sentence when it refused."""
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            return run_step(
                Project.find(Path(self.project_root)),
                function,
                arguments,
                launcher=launcher,
                recorder=recorder,
                environment=session.get_bootstrap_env_vars(),
                progress=partial(print, flush=True),
            )


class MlflowTracking(dg.ConfigurableResource):
    """The project's MLflow: dagster-mlflow loaded on use, with its faults mended.

    `run(context, model, recipe_key)` is a context that yields `dagster_mlflow.MlFlow`, bound to the
    one MLflow run of that recipe key: whoever races for it or comes back to it (another step,
    another process, the evaluation of the adapter) gets the same run. All of MLflow's functions are
    there; `log_params`, `log_metrics`, `set_tags`, `log_artifact` and `log_artifacts` name the run,
    so they also work from other threads, and may be repeated.

    dagster-mlflow's own resource has one MLflow run for each Dagster run, so its class is made
    here, with the resource's context, for each run of a recipe key.

    On leaving, the run is FINISHED, FAILED (exception) or KILLED (interrupt), and MLflow's
    thread-local and process-wide state is as before, so that a later step starts clean and nothing
    that happens at exit changes a status.
    """

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
        run_id = runs.training_run(project, model, recipe_key)
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
        # `runs.active` decides the status; this only takes the run off the thread's stack.
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
