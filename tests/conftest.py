"""What tests of several areas share: a project with its own MLflow database; and their order.

`make test` runs several processes. Tests of one file stay together, as do those that share a fleet,
and what takes longest comes first.
"""

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from adire_assets.core import lineage
from adire_assets.core.project import Project
from adire_assets.core.worker import importing
from adire_assets.ops import operations
from adire_assets.tracking import backend

ROOT = Path(__file__).parents[1]
AWKWARD = "d'été \"18"  # a folder's name as users have them: quotes, a blank and accents

# Before torch is loaded: threads that spin for long keep the other processes' from being woken.
os.environ["GOMP_SPINCOUNT"] = lineage.SPIN_COUNT

# Files whose tests share the fleet of `tests/serving/conftest.py`, which takes long to start.
FLEET = tuple(
    f"serving/test_{name}.py"
    for name in ("release", "requests", "image_streams", "quality", "studio")
)

# What takes long, longest first: files or folders below tests/.
LONG = (
    "line/test_line.py",
    *FLEET,
    "serving/rollout/test_rollout.py",
    "serving/fleet/",
    "studio/test_training.py",
    "ops/test_home_before.py",
    "families/diffusion/formats/",
    "families/diffusion/evaluation/",
    "families/diffusion/training/",
    "ops/test_reproduce.py",
    "ops/test_search.py",
    "gates/test_golden_sets.py",
    "tracking/",
    "serving/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first; within a file the tests keep their order."""

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        return next((n for n, start in enumerate(LONG) if name.startswith(start)), len(LONG))

    items.sort(key=rank)


class Together(LoadFileScheduling):
    """Gives a process whole files, and all of `FLEET` to one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "fleet" if file.endswith(FLEET) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer | None) -> Together:
    return Together(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the tests import stays, and is not searched for garbage, now or later."""
    with importing():
        return (yield)


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """This environment without what would name another project or MLflow."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ADIRE_", "MLFLOW_", "DAGSTER_", "DO_NOT_TRACK"))
    }


@pytest.fixture(scope="session")
def mlflow_database(
    tmp_path_factory: pytest.TempPathFactory, clean_environment: dict[str, str]
) -> Path:
    """MLflow's database with its tables and nothing in them."""
    root = tmp_path_factory.mktemp("mlflow")
    project = Project(root, root / ".adire")
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(clean_environment):
            patch.delenv(name)
        backend.prepare(project)
    return project.home / "mlflow.db"


@pytest.fixture
def mlflow_project(
    mlflow_database: Path,
    clean_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    """A project whose home holds an MLflow database with nothing in it."""
    for name in set(os.environ) - set(clean_environment):
        monkeypatch.delenv(name)
    root = tmp_path / AWKWARD
    (root / "configs" / "models").mkdir(parents=True)
    project = Project(root, root / ".adire")
    project.home.mkdir()
    shutil.copy(mlflow_database, project.home)
    return project


def _embedded(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """What the repository carries of this name, pulled from its DVC remote into another folder."""
    root = tmp_path_factory.mktemp("embedded")
    pointer = Path("base_models") / "tiny" / f"{name}.dvc"
    (root / pointer).parent.mkdir(parents=True)
    shutil.copy(ROOT / pointer, root / pointer)
    ignored = shutil.ignore_patterns("cache", "tmp")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=ignored)
    operations.pull(Project(root, root / "home"), lambda message, **numbers: None)
    return (root / pointer).with_suffix("")


@pytest.fixture(scope="session")
def embedded_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base that the repository carries."""
    return _embedded(tmp_path_factory, "pipeline")


@pytest.fixture(scope="session")
def embedded_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The judge that the repository carries."""
    return _embedded(tmp_path_factory, "judge")
