"""MLflow runs and versions, against a real database and a real server."""

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.tracking import backend, registry, runs
from tests.conftest import AWKWARD
from tests.support.ports import free_port
from tests.support.releases import release_numbers

KEY = "a" * 64
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


def client(project: Project):
    from mlflow import MlflowClient

    uri = backend.tracking_uri(project)
    return MlflowClient(uri, uri)


def new_run(project: Project, key: str = KEY) -> str:
    return runs.training_run(project, "indigo", key)


def status(project: Project, run_id: str) -> str:
    return client(project).get_run(run_id).info.status


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


def release(project: Project, content_hash: str, **options) -> int:
    options.setdefault("run_id", None)
    return registry.register_release(
        project, "indigo", content_hash=content_hash, source=project.root, **options
    )


def test_a_release_content_gets_its_number_once(mlflow_project):
    assert release_numbers(mlflow_project, "indigo") == {}
    run_id = new_run(mlflow_project)
    assert release(mlflow_project, "one", run_id=run_id, tags={"adire.verdict": "v"}) == 1
    assert release(mlflow_project, "two") == 2
    assert release(mlflow_project, "one") == 1
    assert release_numbers(mlflow_project, "indigo") == {"one": 1, "two": 2}
    version = client(mlflow_project).get_model_version("indigo", "1")
    assert version.run_id == run_id
    assert version.tags == {registry.CONTENT_HASH: "one", "adire.verdict": "v"}
    assert version.source == mlflow_project.root.as_uri()


def test_an_alias_moves_and_goes(mlflow_project):
    assert registry.aliases(mlflow_project, "indigo") == {}
    registry.delete_alias(mlflow_project, "indigo", "champion")
    release(mlflow_project, "one")
    release(mlflow_project, "two")
    registry.set_alias(mlflow_project, "indigo", "champion", 1)
    registry.set_alias(mlflow_project, "indigo", "challenger", 2)
    registry.set_alias(mlflow_project, "indigo", "champion", 2)
    assert registry.aliases(mlflow_project, "indigo") == {"champion": 2, "challenger": 2}
    registry.delete_alias(mlflow_project, "indigo", "challenger")
    assert registry.aliases(mlflow_project, "indigo") == {"champion": 2}


def test_a_release_is_tagged_and_a_tag_goes_again(mlflow_project):
    number = release(mlflow_project, "c" * 64)
    approved = {"adire.approved_by": "ada", "adire.approved_reason": "rounder"}
    registry.tag_release(mlflow_project, "indigo", number, approved)
    tags = client(mlflow_project).get_model_version("indigo", str(number)).tags
    assert approved.items() <= tags.items()
    for _ in range(2):  # what is gone may be taken away again
        registry.tag_release(mlflow_project, "indigo", number, dict.fromkeys(approved))
    assert (
        not approved.keys()
        & client(mlflow_project).get_model_version("indigo", str(number)).tags.keys()
    )


def test_an_older_database_is_migrated_and_a_copy_is_kept(mlflow_project):
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from sqlalchemy import event

    database = mlflow_project.home / "mlflow.db"
    database.unlink()
    uri = backend.tracking_uri(mlflow_project)
    engine = utils.create_sqlalchemy_engine(uri)
    event.listen(engine, "connect", lambda link, _: link.execute("PRAGMA synchronous = OFF"))
    config = utils._get_alembic_config(uri)
    newest = utils._get_latest_schema_revision()
    older = ScriptDirectory.from_config(config).get_revision(newest).down_revision
    with engine.begin() as connection:
        utils.InitialBase.metadata.create_all(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, older)
    assert utils._get_schema_version(engine) == older
    backend.prepare(mlflow_project)
    assert utils._get_schema_version(engine) == newest
    (backup,) = mlflow_project.home.glob("mlflow.db.before-*")
    assert utils._get_schema_version(utils.create_sqlalchemy_engine(f"sqlite:///{backup}")) == older


def test_a_database_of_a_newer_mlflow_is_left_alone(mlflow_project):
    database = mlflow_project.home / "mlflow.db"
    with closing(sqlite3.connect(database)) as link, link:
        link.execute("UPDATE alembic_version SET version_num = 'fromthefuture'")
    with pytest.raises(UserError, match=r"schema fromthefuture, .* does not know"):
        new_run(mlflow_project)


def test_what_is_no_database_is_not_touched(mlflow_project):
    database = mlflow_project.home / "mlflow.db"
    database.write_text("notes about indigo, not a database")
    with pytest.raises(UserError, match=r"mlflow\.db is not an SQLite database; restore"):
        runs.find_run(mlflow_project, "indigo", KEY)
    assert database.read_text().startswith("notes")


def test_a_deleted_experiment_says_how_to_bring_it_back(mlflow_project):
    new_run(mlflow_project)
    mlflow = client(mlflow_project)
    mlflow.delete_experiment(mlflow.get_experiment_by_name("indigo").experiment_id)
    with pytest.raises(UserError, match="mlflow experiments restore --experiment-id"):
        new_run(mlflow_project, "b" * 64)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("http://ada:secret@127.0.0.1:1", r"server at http://127\.0\.0\.1:1 cannot be used"),
        ("./mlruns", "no longer keeps runs in plain folders"),
    ],
)
def test_an_unusable_tracking_uri_is_one_sentence_within_seconds(
    mlflow_project, monkeypatch, uri, sentence
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    with pytest.raises(UserError, match=sentence) as caught:
        runs.find_run(mlflow_project, "indigo", KEY)
    assert "secret" not in str(caught.value)
    assert time.monotonic() - started < 10


def test_a_server_gets_runs_and_releases_and_its_death_is_one_sentence(
    mlflow_project, clean_environment, monkeypatch
):
    port = free_port()
    backend.prepare(mlflow_project)
    command = [
        *(str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", backend.tracking_uri(mlflow_project)),
        *("--artifacts-destination", str(backend.artifact_folder(mlflow_project))),
    ]
    # Without the processes for jobs on traces, which nothing here makes.
    quiet = {**backend.ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        command,
        env={**clean_environment, **quiet},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{uri}/health", server)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        source = mlflow_project.root / "release"
        source.mkdir()
        (source / "config.pbtxt").write_text('name: "indigo"')
        run_id = new_run(mlflow_project)
        options = {"run_id": run_id, "content_hash": "c" * 64, "source": source}
        assert registry.register_release(mlflow_project, "indigo", **options) == 1
        assert registry.register_release(mlflow_project, "indigo", **options) == 1
        assert release(mlflow_project, "without a run") == 2
        version = client(mlflow_project).get_model_version("indigo", "1")
        assert version.source == f"runs:/{run_id}/releases/{'c' * 12}"
        assert client(mlflow_project).list_artifacts(run_id, f"releases/{'c' * 12}")
    finally:
        # Its workers share its session, and nothing else does.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=30)
    started = time.monotonic()
    with pytest.raises(UserError, match=f"server at {uri} cannot be used"):
        runs.log_tags(mlflow_project, run_id, {"seen": "never"})
    assert time.monotonic() - started < 20


def wait_for(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        try:
            if requests.get(url, timeout=2).ok:
                return
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(0.1)
    raise AssertionError(f"no MLflow server at {url}; exit status {server.poll()}")


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
