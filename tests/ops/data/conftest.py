"""A checkout with data of an image and of a language model, fresh for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from adire_assets.core.project import Project
from adire_assets.ops import operations
from tests.support import git_project


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("checkout")
    with pytest.MonkeyPatch.context() as patch:
        git_project.isolate(patch, folder / "dvc")
        yield git_project.make(folder / "project")


@pytest.fixture
def project(checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    git_project.isolate(monkeypatch, tmp_path / "dvc")
    return git_project.copy(checkout, tmp_path / "project")


@pytest.fixture(scope="session")
def embedded_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The judge that the repository carries."""
    root = tmp_path_factory.mktemp("embedded judge")
    pointer = Path("base_models") / "tiny" / "judge.dvc"
    (root / pointer).parent.mkdir(parents=True)
    shutil.copy(git_project.ROOT / pointer, root / pointer)
    ignored = shutil.ignore_patterns("cache", "tmp")
    shutil.copytree(git_project.ROOT / ".dvc", root / ".dvc", ignore=ignored)
    operations.pull(Project(root, root / "home"), lambda message, **numbers: None)
    return (root / pointer).with_suffix("")
