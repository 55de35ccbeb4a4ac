"""MLflow runs, against a real database."""

import fcntl
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from adire_assets.core.project import Project
from adire_assets.tracking import runs
from tests.conftest import AWKWARD
from tests.support.mlflow_runs import KEY, client, new_run, status

RACER = """
import sys
from pathlib import Path
from adire_assets.tracking import runs as tracking
from adire_assets.core.project import Project

root = Path(sys.argv[1])
for key in sys.argv[2:]:
    print("ready", flush=True)
    sys.stdin.readline()
    print(tracking.training_run(Project(root, root / ".adire"), "racing", key), flush=True)
"""
HOLDER = """
import sys
from pathlib import Path
from adire_assets.tracking import runs as tracking
from adire_assets.core.project import Project

root = Path(sys.argv[1])
project = Project(root, root / ".adire")
with tracking.active(project, sys.argv[2]):
    tracking.log_metrics(project, sys.argv[2], {"loss": 0.25}, step=7)
    print("inside", flush=True)
    sys.stdin.readline()
"""


@dataclass(frozen=True)
class Raced:
    """`answers`: recipe key -> the run id that each process got; `errors`: what they complained."""

    project: Project
    answers: dict[str, list[str]]
    errors: list[str]


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory, clean_environment: dict[str, str]) -> Raced:
    """Two processes, started together on a home without a database; each asked for the same runs.

    They have ended and left their answers, one run id per recipe key.
    """
    root = tmp_path_factory.mktemp("raced") / AWKWARD
    root.mkdir()
    keys = [digit * 64 for digit in "01234567"]
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


def test_two_processes_on_a_fresh_home_get_one_experiment_and_the_same_runs(raced):
    assert raced.errors == ["", ""]  # nothing went wrong, and quietly
    assert all(first == second for first, second in raced.answers.values())
    mlflow = client(raced.project)
    experiments = [experiment.name for experiment in mlflow.search_experiments()]
    assert sorted(experiments) == ["Default", "racing"]
    found = mlflow.search_runs([mlflow.get_experiment_by_name("racing").experiment_id])
    by_key = {run.data.tags[runs.RECIPE_KEY]: run.info.run_id for run in found}
    assert len(found) == len(by_key)
    assert by_key == {key: first for key, (first, _) in raced.answers.items()}


def test_a_run_is_found_again_by_its_recipe_key_only(mlflow_project):
    assert runs.find_run(mlflow_project, "indigo", KEY) is None
    run_id = new_run(mlflow_project)
    runs.finish(mlflow_project, run_id, "FINISHED")
    assert runs.training_run(mlflow_project, "indigo", KEY) == run_id
    assert runs.find_run(mlflow_project, "indigo", KEY) == run_id
    assert runs.find_run(mlflow_project, "indigo", "b" * 64) is None
    assert new_run(mlflow_project, "b" * 64) != run_id


@pytest.mark.parametrize(
    ("error", "expected"),
    [(None, "FINISHED"), (ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_a_block_ends_its_run_with_what_happened(mlflow_project, error, expected):
    run_id = new_run(mlflow_project)
    runs.finish(mlflow_project, run_id, "FAILED")
    try:
        with runs.active(mlflow_project, run_id):
            assert status(mlflow_project, run_id) == "RUNNING"
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    assert status(mlflow_project, run_id) == expected


def test_overlapping_blocks_end_the_run_with_the_last_and_keep_a_failure(mlflow_project):
    run_id = new_run(mlflow_project)
    first, second = (runs.active(mlflow_project, run_id) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert status(mlflow_project, run_id) == "RUNNING"
    third = runs.active(mlflow_project, run_id)
    third.__enter__()
    third.__exit__(ValueError, ValueError("no"), None)
    second.__exit__(None, None, None)
    assert status(mlflow_project, run_id) == "FAILED"


def test_who_looks_for_abandoned_runs_never_ends_one_that_is_just_leaving(
    mlflow_project, monkeypatch
):
    """The kernel lets go of a shared lock before it gives the exclusive one; looked at then."""
    run_id = new_run(mlflow_project)
    looks = threading.Thread(target=runs.end_abandoned, args=(mlflow_project, "indigo"))
    exclusive = runs._alone

    def slowly_exclusive(descriptor: int) -> bool:
        if looks.ident is None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            looks.start()
            looks.join(1)
        return exclusive(descriptor)

    monkeypatch.setattr(runs, "_alone", slowly_exclusive)
    with runs.active(mlflow_project, run_id):
        pass
    looks.join(30)
    assert status(mlflow_project, run_id) == "FINISHED"


def test_a_failure_while_abandoned_runs_are_looked_for_stays(mlflow_project, monkeypatch):
    run_id = new_run(mlflow_project)
    exclusive = runs._alone

    def fails_first(descriptor: int) -> bool:
        runs.finish(mlflow_project, run_id, "FAILED")
        return exclusive(descriptor)

    monkeypatch.setattr(runs, "_alone", fails_first)
    assert runs.end_abandoned(mlflow_project, "indigo") == []
    assert status(mlflow_project, run_id) == "FAILED"


def test_a_killed_process_leaves_a_run_that_is_marked_killed_and_can_be_resumed(
    mlflow_project, clean_environment
):
    run_id = new_run(mlflow_project)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(mlflow_project.root), run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment,
    )
    try:
        assert holder.stdout.readline() == "inside\n"
        assert runs.end_abandoned(mlflow_project, "indigo") == []
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
    assert status(mlflow_project, run_id) == "RUNNING"
    assert client(mlflow_project).get_metric_history(run_id, "loss")[0].step == 7
    assert runs.end_abandoned(mlflow_project, "indigo") == [run_id]
    assert status(mlflow_project, run_id) == "KILLED"
    assert new_run(mlflow_project) == run_id
    with runs.active(mlflow_project, run_id):
        pass
    assert status(mlflow_project, run_id) == "FINISHED"


def test_parameters_may_be_logged_again_and_a_changed_one_shows_as_a_tag(mlflow_project):
    run_id = new_run(mlflow_project)
    long = ["x" * 5000, "y" * 5000]
    first = {"rank": 4, "gates": {"nsfw": 0.5}, "target_modules": ["to_k"], "long": long}
    runs.log_parameters(mlflow_project, run_id, first)
    runs.log_parameters(mlflow_project, run_id, {**first, "rank": 8, "seed": 42})
    runs.log_parameters(mlflow_project, run_id, {f"p{i}": i for i in range(250)})
    data = client(mlflow_project).get_run(run_id).data
    assert data.params["rank"] == "4"
    assert data.params["gates.nsfw"] == "0.5"
    assert data.params["target_modules"] == '["to_k"]'
    assert data.params["seed"] == "42"
    assert data.params["p249"] == "249"
    assert len(data.params["long"]) == 6000
    assert {name: tag for name, tag in data.tags.items() if name.startswith("param.")} == {
        "param.rank": "8"
    }


def test_metrics_tags_and_read_only_files_are_logged_and_replaced(mlflow_project, tmp_path):
    run_id = new_run(mlflow_project)
    folder = tmp_path / "adapter"
    (folder / "validation").mkdir(parents=True)
    sheet = folder / "validation" / "sheet.png"
    for content in ("old", "new"):
        sheet.unlink(missing_ok=True)
        sheet.write_text(content)
        sheet.chmod(0o444)
        runs.log_artifacts(mlflow_project, run_id, [sheet], "evaluation")
        runs.log_folder(mlflow_project, run_id, folder)
        runs.log_tags(mlflow_project, run_id, {"state": content})
    runs.log_metrics(mlflow_project, run_id, {"clip_s": 0.8, "kid": 0.1})
    runs.log_metrics(mlflow_project, run_id, {"clip_s": 0.9}, step=1)
    run = client(mlflow_project).get_run(run_id)
    assert run.data.tags["state"] == "new"
    assert run.data.metrics == {"clip_s": 0.9, "kid": 0.1}
    place = mlflow_project.home / "mlartifacts" / "indigo" / run_id / "artifacts"
    assert (place / "evaluation" / "sheet.png").read_text() == "new"
    assert (place / "validation" / "sheet.png").read_text() == "new"


def test_what_a_training_shows_is_logged_whatever_it_is(mlflow_project, tmp_path):
    run_id = new_run(mlflow_project)
    shown = tmp_path / "shown"
    (shown / "inside").mkdir(parents=True)
    for name in ("text.txt", "picture.png"):
        (shown / name).write_text("cloth")
    runs.record_progress(mlflow_project, run_id, {"loss": 0.5}, shown, 7)
    logged = client(mlflow_project).list_artifacts(run_id, "validation/step-000007")
    assert [Path(one.path).name for one in logged] == ["picture.png", "text.txt"]
    assert client(mlflow_project).get_metric_history(run_id, "loss")[0].step == 7
