"""A project with MLflow's database and the repository's fleet file."""

import shutil

import pytest

from adire_assets.core.project import Project
from tests.support.garbage import ROOT


@pytest.fixture
def project(mlflow_project: Project) -> Project:
    shutil.copy(ROOT / "configs" / "fleet.yaml", mlflow_project.root / "configs")
    return mlflow_project
