"""A home that is lost comes back from its backup, whole, elsewhere, or not at all."""

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from adire_assets.cli import main
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.gates import approvals
from adire_assets.monitoring.feedback import append
from adire_assets.ops import backup as backups
from adire_assets.ops.backup import backup, restore
from adire_assets.serving import record, release
from adire_assets.serving.fleet import slot
from adire_assets.tracking import runs
from tests.support.kept_home import (
    MODEL,
    TARGET,
    files_of,
    filled,
    lost,
    make_live,
    make_release,
    quiet,
)
from tests.support.releases import release_numbers


@pytest.fixture
def project(project: Project) -> Project:
    return filled(project)


def test_what_is_live_is_served_after_the_disk_was_lost(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    states = files_of(project.home / "deployments") | files_of(project.home / "releases")
    numbers = release_numbers(project, MODEL)
    live, before, first = (release.read_record(project, MODEL, number) for number in (4, 3, 1))
    said_by_users = project.home / "feedback" / MODEL / "2026-01-01.jsonl"
    append(said_by_users, {"user": "ada"})
    backup(project, tmp_path / "kept" / "monday", print)
    kept = tmp_path / "kept" / "monday" / "home" / said_by_users.relative_to(project.home)
    assert kept.stat().st_mode & 0o777 == 0o600
    again = lost(project)
    restore(again, tmp_path / "kept" / "monday", print)
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == "release 4 of cloth is live on local; `adire up` serves it"
    assert files_of(again.home / "deployments") | files_of(again.home / "releases") == states
    store = Store(again)
    for made in (live, before):
        for part in (made.repository, made.adapter, made.base_model, made.evaluation):
            store.verify(store.open(part))
    assert store.recall(first.adapter).manifest["key"] == first.adapter["key"]
    assert "too pale" in (record.quarantine_reason(again, MODEL, 2) or "")
    assert approvals.approval(again, before)
    assert release_numbers(again, MODEL) == numbers
    place = again.home / "fleet" / "slots" / TARGET / "blue"
    assert slot.reconcile(again, TARGET, "blue", place) == [MODEL]
    assert release.installed(place, MODEL) == [4]
    assert len(list((place / "base_models").iterdir())) == 1
    next_one = make_release(again)  # and life goes on
    assert next_one.number == 5
    restored = again.home / said_by_users.relative_to(project.home)
    assert restored.stat().st_mode & 0o777 == 0o600


def test_mlflow_and_dagster_name_the_new_place(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "kept", quiet)
    again = lost(project)
    restore(again, tmp_path / "kept", quiet)
    client = MlflowClient(*[f"sqlite:///{again.home / 'mlflow.db'}"] * 2)
    version = client.get_model_version(MODEL, "4")
    assert (
        version.source
        == Store(again).open(release.read_record(again, MODEL, 4).repository).path.as_uri()
    )
    [run] = client.search_runs([client.get_experiment_by_name(MODEL).experiment_id])
    assert run.info.artifact_uri.startswith(again.home.as_uri())
    fetched = client.download_artifacts(run.info.run_id, "fleet.yaml", str(tmp_path))
    assert "targets:" in Path(fetched).read_text()
    # The process that had the run is dead, and that is noticed as before.
    assert runs.end_abandoned(again, MODEL) == [run.info.run_id]
    with closing(sqlite3.connect(again.home / "dagster" / "history" / "runs.db")) as database:
        [[body]] = database.execute("SELECT body FROM events").fetchall()
    assert json.loads(body)["path"] == str(again.home / "store" / "x")


def test_a_backup_holds_no_secret_and_no_path_and_nothing_that_is_made_again(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    key = project.home / "auth" / "own.key"
    key.parent.mkdir()
    key.write_text("-----BEGIN EC PRIVATE KEY-----\nabc\n")
    backup(project, tmp_path / "kept", print)
    held = files_of(tmp_path / "kept")
    assert not any(str(project.home).encode() in content for content in held.values())
    assert not any(b"PRIVATE KEY" in content for content in held.values())
    tops = {name.split("/")[1] for name in held if name.startswith("home/")}
    assert not tops & {"cache", "work", "fleet", "jobs", "rating_secret", "auth"}
    said = capsys.readouterr().out
    for secret in ("auth/private.pem", "rating_secret", "auth/own.key"):
        assert secret in said
    assert {name for name in held if name.startswith("home/store/") and "lora_weights" in name}
    first = release.read_record(project, MODEL, 1).adapter["key"][:32]
    assert f"home/manifests/{MODEL}/lora_weights/{first}/manifest.json" in held
    assert not [
        name for name in held if name.startswith(f"home/store/{MODEL}/lora_weights/{first}")
    ]


def test_a_backup_holds_together_while_releases_come_and_go(
    project: Project, tmp_path: Path
) -> None:
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            made = make_release(project)
            make_live(project, made.number)
            if made.number % 3 == 0:
                record.quarantine(project, MODEL, made.number, "too pale")
                make_live(project, made.number - 1)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(3):
            backup(project, tmp_path / f"kept-{number}", quiet)
    finally:
        over.set()
        worker.join()
    lost(project)
    for number in range(3):
        again = Project(project.root, project.root / f"home-{number}")
        restore(again, tmp_path / f"kept-{number}", quiet)
        state = record.read(again, TARGET, MODEL)
        known = release_numbers(again, MODEL)
        for one in release.records(again, MODEL):
            assert known[one.repository["content_hash"]] == one.number
        live = release.read_record(again, MODEL, state.live or 0)
        Store(again).verify(Store(again).open(live.repository))
        last = state.history[-1]
        if last["action"] == "deploy" and (last["from"] or 0) > last["number"]:
            assert record.quarantine_reason(again, MODEL, last["from"])


def test_a_backup_has_what_its_own_records_name_however_many_releases_come_meanwhile(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sorted_out = backups.sorted_out

    def late(*given: Any) -> Any:
        if given[0].home == project.home:
            for _ in range(8):
                make_live(project, make_release(project).number)
        return sorted_out(*given)

    then = record.read(project, TARGET, MODEL).live or 0
    monkeypatch.setattr(backups, "sorted_out", late)
    backup(project, tmp_path / "kept", quiet)
    lost(project)
    again = Project(project.root, project.root / "home-again")
    restore(again, tmp_path / "kept", quiet)
    assert record.read(again, TARGET, MODEL).live == then
    Store(again).verify(Store(again).open(release.read_record(again, MODEL, then).repository))


def test_the_commands(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def adire(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["adire", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return int(ended.value.code or 0)

    monkeypatch.setenv("ADIRE_PROJECT", str(project.root))
    kept = tmp_path / "kept"
    assert adire("backup", str(kept)) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"backup: {kept} has ")
    assert adire("restore", str(kept)) == 1
    assert capsys.readouterr().err.count("\n") == 1
    shutil.rmtree(project.home)
    assert adire("restore", str(kept)) == 0
    assert "`adire up` serves it" in capsys.readouterr().out
