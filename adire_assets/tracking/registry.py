"""MLflow's registry: one version per release, and the aliases that say which is live.

The registered model carries the model's name. A version is found by its tag `adire.content_hash`,
looked up and created under the lock of the runs, so that racing processes get the same one.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adire_assets.core.project import Project
from adire_assets.tracking import runs
from adire_assets.tracking.backend import LOCK, client, is_server, own_database

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONTENT_HASH = "adire.content_hash"


def register_release(
    project: Project,
    model: str,
    *,
    content_hash: str,
    run_id: str | None,
    source: Path,
    tags: Mapping[str, Any] | None = None,
) -> int:
    """The version number of a release content: found again by its hash, or the next one.

    `source` is the release's folder. A database refers to it where it lies. A server refuses paths,
    so the files go below the run's artifacts there. Without a run the version's source names home
    and content alone.
    """
    with client(project) as mlflow, project.locks.acquire(LOCK):
        same = f"name = '{model}' AND tags.`{CONTENT_HASH}` = '{content_hash}'"
        if found := mlflow.search_model_versions(same):
            return int(found[0].version)
        if not is_server(project):
            place = source.as_uri()
        elif run_id is None:
            place = f"adire://{project.identity}/{model}/{content_hash}"
        else:
            folder = f"releases/{content_hash[:12]}"
            runs.log_folder(project, run_id, source, folder)
            place = f"runs:/{run_id}/{folder}"
        if not _registered(mlflow, model):
            mlflow.create_registered_model(model)
        version = mlflow.create_model_version(
            model, place, run_id=run_id, tags={**(tags or {}), CONTENT_HASH: content_hash}
        )
    return int(version.version)


def tag_release(project: Project, model: str, number: int, tags: Mapping[str, str | None]) -> None:
    """Set tags of a release's model version; None takes a tag away, which need not exist."""
    with client(project) as mlflow:
        for name, value in tags.items():
            if value is not None:
                mlflow.set_model_version_tag(model, str(number), name, value)
            else:
                mlflow.delete_model_version_tag(model, str(number), name)


def describe_release(project: Project, model: str, number: int, text: str) -> None:
    """Set the description of a release's model version, in Markdown."""
    with client(project) as mlflow:
        mlflow.update_model_version(model, str(number), description=text)


def set_alias(project: Project, model: str, alias: str, number: int) -> None:
    """Point an alias (`champion`, `challenger`) at a version; it moves when it exists."""
    with client(project) as mlflow:
        mlflow.set_registered_model_alias(model, alias, str(number))


def delete_alias(project: Project, model: str, alias: str) -> None:
    """Take an alias away; it need not exist."""
    with client(project) as mlflow:
        if alias in _aliases(mlflow, model):
            mlflow.delete_registered_model_alias(model, alias)


def aliases(project: Project, model: str) -> dict[str, int]:
    """{alias: version number}; empty for a model that was never released."""
    with client(project) as mlflow:
        return _aliases(mlflow, model)


def seen_aliases(project: Project, model: str) -> dict[str, int]:
    """`aliases`; those of the project's own database without MLflow, whose import takes seconds.

    The database is only looked at: one that is not there has no aliases.
    """
    path = own_database(project)
    if path is None:
        return aliases(project, model)
    if not path.is_file():
        return {}
    query = "SELECT alias, version FROM registered_model_aliases WHERE name = ?"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            return {alias: int(number) for alias, number in database.execute(query, (model,))}
    except sqlite3.Error:  # of an older or a newer MLflow, or no database: MLflow says which
        return aliases(project, model)


def _registered(mlflow: "MlflowClient", model: str) -> bool:
    return bool(mlflow.search_registered_models(filter_string=f"name = '{model}'", max_results=1))


def _aliases(mlflow: "MlflowClient", model: str) -> dict[str, int]:
    if not _registered(mlflow, model):
        return {}
    return {name: int(n) for name, n in mlflow.get_registered_model(model).aliases.items()}
