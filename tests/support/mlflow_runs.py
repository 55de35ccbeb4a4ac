"""Runs in a project's MLflow."""

from adire_assets.core.project import Project
from adire_assets.tracking import backend, registry, runs

KEY = "a" * 64


def client(project: Project):
    from mlflow import MlflowClient

    uri = backend.tracking_uri(project)
    return MlflowClient(uri, uri)


def new_run(project: Project, key: str = KEY) -> str:
    return runs.training_run(project, "indigo", key)


def status(project: Project, run_id: str) -> str:
    return client(project).get_run(run_id).info.status


def release(project: Project, content_hash: str, **options) -> int:
    options.setdefault("run_id", None)
    return registry.register_release(
        project, "indigo", content_hash=content_hash, source=project.root, **options
    )
