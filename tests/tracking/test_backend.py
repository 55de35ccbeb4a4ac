"""The database and the server of MLflow: migrated, left alone, or told of in one sentence."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import requests

from adire_assets.core.errors import UserError
from adire_assets.tracking import backend, registry, runs
from tests.support.mlflow_runs import KEY, client, new_run, release
from tests.support.ports import free_port


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
