"""What tests of several areas share: a project with its own MLflow database; and their order.

`make test` runs two processes. Tests of one file stay together, and what takes longest comes first.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adire_assets import operations
from adire_assets.config import Project
from adire_assets.worker import importing

ROOT = Path(__file__).parents[1]
AWKWARD = "d'été \"18"  # a folder's name as users have them: quotes, a blank and accents
RACER = """
import sys
from pathlib import Path
from adire_assets import tracking
from adire_assets.config import Project

root = Path(sys.argv[1])
for key in sys.argv[2:]:
    print("ready", flush=True)
    sys.stdin.readline()
    run = tracking.training_run(Project(root, root / ".adire"), "racing", key)
    print(run.run_id, flush=True)
"""


# What takes long, longest first: files or folders below tests/.
LONG = (
    "line/",
    "serving/test_rollout.py",
    "core/test_reproduce.py",
    "diffusion/test_training_options.py",
    "test_search.py",
    "test_tracking.py",
    "evaluation/test_evaluation_images.py",
    "diffusion/test_formats.py",
    "evaluation/test_golden.py",
    "serving/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first; within a file the tests keep their order."""

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        return next((n for n, start in enumerate(LONG) if name.startswith(start)), len(LONG))

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the tests import stays, and is not searched for garbage, now or later."""
    with importing():
        return (yield)


@dataclass(frozen=True)
class Raced:
    """`answers`: recipe key -> the run id that each process got; `errors`: what they complained."""

    project: Project
    answers: dict[str, list[str]]
    errors: list[str]


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """This environment without what would name another project or MLflow."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ADIRE_", "MLFLOW_", "DAGSTER_", "DO_NOT_TRACK"))
    }


@pytest.fixture(scope="session")
def raced(tmp_path_factory: pytest.TempPathFactory, clean_environment: dict[str, str]) -> Raced:
    """Two processes, started together on a home without a database; each asked for the same runs.

    They have ended and left their answers, one run id per recipe key.
    """
    root = tmp_path_factory.mktemp("raced") / AWKWARD
    root.mkdir()
    keys = [digit * 64 for digit in "0123456789abcdef"]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(root), *keys],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment,
        )
        for _ in range(2)
    ]
    answers: dict[str, list[str]] = {}
    for key in keys:
        for racer in racers:
            racer.stdout.readline()
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        answers[key] = [racer.stdout.readline().strip() for racer in racers]
    errors = [racer.communicate(timeout=120)[1] for racer in racers]
    return Raced(Project(root, root / ".adire"), answers, errors)


@pytest.fixture
def mlflow_project(
    raced: Raced,
    clean_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    """A project whose home holds a migrated MLflow database with nothing of use in it."""
    for name in set(os.environ) - set(clean_environment):
        monkeypatch.delenv(name)
    root = tmp_path / AWKWARD
    (root / "configs" / "models").mkdir(parents=True)
    project = Project(root, root / ".adire")
    project.home.mkdir()
    source = raced.project.home / "mlflow.db"
    (project.home / "mlflow.db").write_bytes(source.read_bytes())
    return project


@pytest.fixture(scope="session")
def embedded_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base that the repository carries, pulled from its DVC remote into another folder."""
    root = tmp_path_factory.mktemp("embedded")
    pointer = Path("base_models") / "tiny" / "pipeline.dvc"
    (root / pointer).parent.mkdir(parents=True)
    shutil.copy(ROOT / pointer, root / pointer)
    ignored = shutil.ignore_patterns("cache", "tmp")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=ignored)
    operations.pull(Project(root, root / "home"), lambda message, **numbers: None)
    return (root / pointer).with_suffix("")
