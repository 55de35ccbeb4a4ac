"""The releases that MLflow's registry knows."""

from adire_assets.core.project import Project
from adire_assets.tracking import backend, registry


def release_numbers(project: Project, model: str) -> dict[str, int]:
    """{content hash: version number} of every registered release."""
    with backend.client(project) as mlflow:
        found = mlflow.search_model_versions(f"name = '{model}'")
    return {one.tags[registry.CONTENT_HASH]: int(one.version) for one in found}
