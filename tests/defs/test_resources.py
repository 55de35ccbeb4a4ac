"""What a user is told of a child process that did not do its work."""

import gc
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from adire_assets.core.project import Project
from adire_assets.core.worker import importing
from adire_assets.defs.resources import ChildProcesses, ReferenceIOManager, answered
from adire_assets.families.training.launch import launcher

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    return Project(tmp_path, tmp_path / ".adire")


def failure(project: Project, function: str, processes: int | None) -> str:
    """The description of the failure of an asset whose work `function` is."""
    [event] = carried_out(project, function, processes)[0].get_step_failure_events()
    return event.step_failure_data.user_failure_data.description


def carried_out(
    project: Project, function: str, processes: int | None = None
) -> tuple[dg.ExecuteInProcessResult, dict[str, Any]]:
    """The run of an asset whose work `function` is, and what the child returned."""
    launch = launcher("cpu", {"num_processes": processes}) if processes else ()
    returned: dict[str, Any] = {}

    @dg.asset
    def work(context: dg.AssetExecutionContext, children: ChildProcesses) -> None:
        with answered():
            done = children.run(context, f"tests.support.jobs:{function}", launcher=launch)
        returned.update(done)

    children = ChildProcesses(project_root=str(project.root))
    with dg.instance_for_test() as instance:
        run = dg.materialize(
            [work], instance=instance, resources={"children": children}, raise_on_error=False
        )
    return run, returned


def test_garbage_is_collected_again_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


@pytest.mark.parametrize("processes", [None, 2])
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
    assert told.startswith("the worker of crash ended unexpectedly (exit status ")
    assert "the vat leaks" in capfd.readouterr().out


def test_the_callers_environment_does_not_reach_a_child(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/elsewhere")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("ADIRE_DEVICE", "cpu")
    found = carried_out(project, "surroundings")[1]
    assert not {"VIRTUAL_ENV", "GIT_DIR"} & found.keys()
    assert found["PYTHONPATH"] == str(ROOT)
    assert found["ADIRE_DEVICE"] == "cpu"


def test_a_run_holds_its_lock_while_it_lives_and_hands_references_on(project: Project) -> None:
    held: list[bool] = []

    @dg.asset(io_manager_key="references")
    def cloth(context: dg.AssetExecutionContext) -> dict[str, str]:
        held.append(project.locks.is_held(f"run-{context.run.run_id}"))
        return {"key": "0"}

    references = ReferenceIOManager(project_root=str(project.root))
    with dg.instance_for_test() as instance:
        run = dg.materialize([cloth], instance=instance, resources={"references": references})
    assert held == [True] and not project.locks.is_held(f"run-{run.run_id}")
    for name in (run.run_id, "latest"):
        assert project.records.read(f"references/{name}/cloth").value == {"key": "0"}
