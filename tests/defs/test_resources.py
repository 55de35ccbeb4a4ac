"""What a user is told of a child process that did not do its work."""

from pathlib import Path

import dagster as dg
import pytest

from adire_assets.config import Project
from adire_assets.defs.resources import ChildProcesses, answered
from adire_assets.diffusion.launch import launcher

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Project(tmp_path, tmp_path / ".adire")


def failure(project: Project, function: str, processes: int | None) -> str:
    """The description of the failure of an asset whose work `function` is."""
    launch = launcher("cpu", {"num_processes": processes}) if processes else ()

    @dg.asset
    def work(context: dg.AssetExecutionContext, children: ChildProcesses) -> None:
        with answered():
            children.run(context, f"tests.support.jobs:{function}", launcher=launch)

    children = ChildProcesses(project_root=str(project.root))
    with dg.instance_for_test() as instance:
        done = dg.materialize(
            [work], instance=instance, resources={"children": children}, raise_on_error=False
        )
    [event] = done.get_step_failure_events()
    return event.step_failure_data.user_failure_data.description


@pytest.mark.parametrize("processes", [None, 1, 2])
def test_a_refusal_is_its_sentence_alone(
    project: Project,
    capfd: pytest.CaptureFixture[str],
    processes: int | None,
) -> None:
    assert failure(project, "refuse", processes) == "there is no cloth to dye"
    printed = capfd.readouterr()
    assert "ChildFailedError" not in printed.err and "RuntimeError" not in printed.err


def test_one_that_refuses_alone_leaves_no_other_waiting(project: Project) -> None:
    assert failure(project, "refuse_alone", 2) == "there is no cloth to dye"


@pytest.mark.parametrize("processes", [None, 2])
def test_a_crash_says_where_its_words_stand(
    project: Project,
    capfd: pytest.CaptureFixture[str],
    processes: int | None,
) -> None:
    told = failure(project, "crash", processes)
    assert told.startswith("the worker of crash ended unexpectedly (External execution process")
    assert "the vat leaks" in capfd.readouterr().err
