"""MLflow's runs: one per adapter, no thread-local state.

The experiment carries the model's name. A run is found by its tag `adire.recipe_key`, looked up and
created under one lock, so that racing processes get the same one. Every call names its run, so a
worker child or another thread logs into the same run. `tracking.registry` keeps the releases;
`adire_assets.tracking.backend` says where all this lies and which mistakes become a `UserError`.
"""

import fcntl
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.locks import lock_at_once
from adire_assets.core.project import Project
from adire_assets.tracking.backend import LOCK, artifact_folder, client, is_server

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECIPE_KEY = "adire.recipe_key"
HOLDER = "adire.holder"  # host and home of the processes that log into a run
VALIDATION = "validation"  # the folder of a run that has what a training has shown, by step
BATCH = 100  # of each kind in one request, MLflow's limit for parameters and tags

# A context that yields the logging functions of the one run of an adapter, by its recipe key.
Tracked = Callable[[str], AbstractContextManager[Any]]
Status = Literal["FINISHED", "FAILED", "KILLED"]


# --- runs -----------------------------------------------------------------------------------------


def training_run(project: Project, model: str, recipe_key: str) -> str:
    """The id of the one run of an adapter, found by its recipe key or created.

    Call it when training really starts, never for a reused adapter: a run is never empty.
    """
    with client(project) as mlflow, project.locks.acquire(LOCK):
        if found := _find(mlflow, model, recipe_key):
            return found
        own = {RECIPE_KEY: recipe_key, HOLDER: _holder(project)}
        name = run_name(model, recipe_key)
        created = _create(project, mlflow, model, name, own)
        _hold_file(project, created).touch()
    return created


def plain_run(
    project: Project, model: str, name: str, tags: Mapping[str, str], parent: str | None = None
) -> str:
    """A run of the model's experiment that is no adapter's, below `parent`; its id."""
    nested = {"mlflow.parentRunId": parent} if parent else {}
    with client(project) as mlflow, project.locks.acquire(LOCK):
        return _create(project, mlflow, model, name, {**tags, **nested})


def run_name(model: str, recipe_key: str) -> str:
    return f"{model}-{recipe_key[:12]}"


def rename(project: Project, run_id: str, name: str) -> None:
    with client(project) as mlflow:
        mlflow.update_run(run_id, name=name)


def find_run(project: Project, model: str, recipe_key: str) -> str | None:
    """The id of an adapter's run, or None."""
    with client(project) as mlflow:
        return _find(mlflow, model, recipe_key)


def finish(project: Project, run_id: str, status: Status) -> None:
    """The run has ended."""
    with client(project) as mlflow:
        mlflow.set_terminated(run_id, status=status)


@contextmanager
def active(project: Project, run_id: str) -> Iterator[None]:
    """The run is RUNNING inside the block; then FINISHED, FAILED (exception) or KILLED (interrupt).

    Blocks of several processes on one run may overlap: the last one out ends it, and the failure of
    another stays. A process that is killed inside the block is noticed by `end_abandoned`.
    """
    with _hold_file(project, run_id).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with client(project) as mlflow:
            mlflow.update_run(run_id, status="RUNNING")  # again, perhaps
        try:
            yield
        except BaseException as error:
            status: Status = "FAILED" if isinstance(error, Exception) else "KILLED"
            try:
                finish(project, run_id, status)
            except UserError as trouble:
                error.add_note(f"The run could not be marked {status} in MLflow: {trouble}")
            raise
        # Going from shared to exclusive lets go for a moment; nobody may look in it.
        with client(project) as mlflow, project.locks.acquire(LOCK):
            _end_alone(mlflow, run_id, file.fileno(), "FINISHED")


def end_abandoned(project: Project, model: str) -> list[str]:
    """Mark KILLED the RUNNING runs whose process on this machine is gone; their ids.

    The same recipe, started again, resumes its run.
    """
    ended = []
    with client(project) as mlflow, project.locks.acquire(LOCK):
        experiment = mlflow.get_experiment_by_name(model)
        if experiment is None:
            return []
        query = f"attributes.status = 'RUNNING' AND tags.`{HOLDER}` = '{_holder(project)}'"
        for run in mlflow.search_runs([experiment.experiment_id], query):
            run_id = run.info.run_id
            with suppress(FileNotFoundError), _hold_file(project, run_id).open("r+") as file:
                if _end_alone(mlflow, run_id, file.fileno(), "KILLED"):
                    ended.append(run_id)
    return ended


def _end_alone(mlflow: "MlflowClient", run_id: str, descriptor: int, status: Status) -> bool:
    """End a run that no other process holds and that is RUNNING still; False when it is not so."""
    if not _alone(descriptor) or mlflow.get_run(run_id).info.status != "RUNNING":
        return False
    mlflow.set_terminated(run_id, status=status)
    return True


def _find(mlflow: "MlflowClient", model: str, recipe_key: str) -> str | None:
    experiment = mlflow.get_experiment_by_name(model)
    if experiment is None:
        return None
    found = mlflow.search_runs(
        [experiment.experiment_id],
        f"tags.`{RECIPE_KEY}` = '{recipe_key}'",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return found[0].info.run_id if found else None


def _create(
    project: Project, mlflow: "MlflowClient", model: str, name: str, tags: Mapping[str, str]
) -> str:
    """A new run of the model's experiment; its id. The caller holds the lock."""
    own = {"mlflow.source.name": lineage.PACKAGE, "adire.model": model}
    experiment = _experiment(project, mlflow, model)
    return mlflow.create_run(experiment, run_name=name, tags={**tags, **own}).info.run_id


def _experiment(project: Project, mlflow: "MlflowClient", model: str) -> str:
    """The id of the model's experiment, created on first use; the caller holds the lock."""
    experiment = mlflow.get_experiment_by_name(model)
    if experiment is None:
        place = None if is_server(project) else (artifact_folder(project) / model).as_uri()
        return mlflow.create_experiment(model, artifact_location=place)
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"the MLflow experiment {model} was deleted; bring it back with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
        )
    return experiment.experiment_id


def _holder(project: Project) -> str:
    """As an address, in which no quote ends MLflow's filter early."""
    return f"{socket.gethostname()}:{project.home.as_uri()}"


def _hold_file(project: Project, run_id: str) -> Path:
    folder = project.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"mlflow-run-{run_id}.lock"


def _alone(descriptor: int) -> bool:
    """True when no other process holds the file; the lock is then exclusive, else given up."""
    if lock_at_once(descriptor):
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


# --- what a run says ------------------------------------------------------------------------------


def log_parameters(project: Project, run_id: str, parameters: Mapping[str, Any]) -> None:
    """Log hyperparameters; nested mappings become dotted names, lists become JSON.

    MLflow never changes a parameter. One that the run has already with another value (an adapter
    evaluated again with other settings) is kept, and the new value becomes the tag `param.<name>`.
    """
    with client(project) as mlflow:
        known = mlflow.get_run(run_id).data.params
        values = {name: _parameter_text(value) for name, value in _flat(parameters)}
        new = {name: text for name, text in values.items() if name not in known}
        changed = {name: text for name, text in values.items() if known.get(name, text) != text}
        tags = {f"param.{name}": text for name, text in changed.items()}
        _log(mlflow, run_id, params=new, tags=tags)


def log_metrics(
    project: Project, run_id: str, metrics: Mapping[str, float], step: int | None = None
) -> None:
    """Log numbers at `step` (default 0); usable from any process and thread."""
    with client(project) as mlflow:
        _log(mlflow, run_id, metrics=metrics, step=step or 0)


def recorder(run_id: str) -> dict[str, str]:
    """The recorder of a worker's job that logs its progress into this run (`core.worker`)."""
    return {"function": f"{__name__}:record_progress", "run_id": run_id}


def record_progress(
    project: Project, run_id: str, numbers: Mapping[str, float], shown: Path | None, step: int
) -> None:
    """Log a worker's numbers at `step`, and the files in the folder `shown` below validation/."""
    if numbers:
        log_metrics(project, run_id, numbers, step)
    if shown:
        files = sorted(path for path in shown.iterdir() if path.is_file())
        log_artifacts(project, run_id, files, f"{VALIDATION}/step-{step:06}")


def log_tags(project: Project, run_id: str, tags: Mapping[str, Any]) -> None:
    """Set tags; one that exists gets the new value."""
    with client(project) as mlflow:
        _log(mlflow, run_id, tags={name: str(value) for name, value in tags.items()})


def log_artifacts(project: Project, run_id: str, files: Iterable[Path], folder: str = "") -> None:
    """Put files below `folder` of the run. The same name replaces a file."""
    with client(project) as mlflow:
        for path in files:
            mlflow.log_artifact(run_id, str(path), folder or None)


def log_folder(project: Project, run_id: str, source: Path, folder: str = "") -> None:
    """Put all files below `source` under `folder` of the run, links left out."""
    # File by file: MLflow's own copy of a folder fails where it meets its read-only copy.
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.is_symlink():
            place = Path(folder) / path.relative_to(source).parent
            log_artifacts(project, run_id, [path], "" if place == Path() else place.as_posix())


def _log(
    mlflow: "MlflowClient",
    run_id: str,
    *,
    params: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    step: int = 0,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    numbers = [Metric(name, float(value), now, step) for name, value in (metrics or {}).items()]
    texts = [Param(name, text) for name, text in (params or {}).items()]
    labels = [RunTag(name, text) for name, text in (tags or {}).items()]
    for first in range(0, max(len(numbers), len(texts), len(labels)), BATCH):
        part = slice(first, first + BATCH)
        mlflow.log_batch(run_id, numbers[part], texts[part], labels[part])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parameter_text(value: Any) -> str:
    """At most MLflow's 6000 characters; a longer text ends with its digest, so it stays its own."""
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple) else str(value)
    if len(text) <= MAX_PARAM_VAL_LENGTH:
        return text
    ending = f" ... sha256:{lineage.digest(text)}"
    return text[: MAX_PARAM_VAL_LENGTH - len(ending)] + ending
