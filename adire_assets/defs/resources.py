"""Dagster's handles on the core: references between assets, and child processes under Pipes.

`project_root` is the folder that `Project.find` starts from.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from adire_assets.core.disk import refusal
from adire_assets.core.errors import UserError
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store
from adire_assets.core.worker import RunWorker


class ReferenceIOManager(dg.ConfigurableIOManager):
    """Hands references (never content) from asset to asset, those of the same run first.

    An asset that is not part of the run gives the reference of its latest materialization. The
    files lie in <home>/references, so a selection works with any or no DAGSTER_HOME.
    """

    project_root: str
    _alive: Any = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Hold the run's lock as long as its process lives, so that a killed run can be told."""
        if context.run:
            run = f"run-{context.run.run_id}"
            self._alive = self._project.locks.acquire(run)
            self._alive.__enter__()

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        if self._alive:
            self._alive.__exit__(None, None, None)

    def handle_output(self, context: dg.OutputContext, obj: dict[str, Any]) -> None:
        for run in (context.run_id, "latest"):
            self._project.records.change(_name(run, context.asset_key), lambda _: obj)

    def load_input(self, context: dg.InputContext) -> Artifact:
        for run in (context.step_context.run_id, "latest"):
            reference = self._project.records.read(_name(run, context.asset_key)).value
            if reference is not None:
                with answered():
                    return Store(self._project).open(reference)
        key = context.asset_key.to_user_string()
        raise dg.Failure(
            f"{key} was never materialized; materialize it first, or the whole graph",
            allow_retries=False,
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

    def runner(self, context: dg.AssetExecutionContext | dg.OpExecutionContext) -> RunWorker:
        """`run` for the asset or the check that `context` belongs to."""
        return partial(self.run, context)

    def run(
        self,
        context: dg.AssetExecutionContext | dg.OpExecutionContext,
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
