"""A home that is lost comes back from its backup, whole, elsewhere, or not at all."""

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from adire_assets.cli import main
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe, digest
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, read_json, write_json
from adire_assets.gates import approvals
from adire_assets.ops import backup as backups
from adire_assets.ops.backup import backup, restore
from adire_assets.serving import record, release
from adire_assets.serving.fleet import slot
from adire_assets.tracking import registry, runs
from tests.support.releases import release_numbers

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
TARGET = "local"


def quiet(message: str) -> None:
    pass


def artifact(project: Project, kind: str, number: int, *made_from: Artifact) -> Artifact:
    def write(folder: Path) -> dict:
        (folder / "pipeline").mkdir()
        (folder / "pipeline" / "weights.safetensors").write_bytes(bytes(2000))
        write_json(folder / "base.json", {"variant": None})
        write_json(folder / "serving.json", {"base_model": "b" * 32, "number": number})
        for name in ("model.py", "config.pbtxt"):
            (folder / name).write_text(f"{kind} {number}")
        return {one.kind: one.reference() for one in made_from}

    recipe = Recipe(kind, MODEL, inputs={"number": str(number)})
    return Store(project).build(recipe, write).artifact


def make_release(project: Project) -> release.ReleaseRecord:
    """Another release, registered in MLflow and recorded."""
    number = len(release.records(project, MODEL)) + 1
    base = artifact(project, "base_model", 0)
    adapter = artifact(project, "lora_weights", number, base)
    content = artifact(project, "triton_repository", number)
    evaluation = artifact(project, "evaluation_report", number, adapter, base)
    found = registry.register_release(
        project, MODEL, content_hash=content.content_hash, run_id=None, source=content.path
    )
    assert found == number
    parts = {"repository": content, "adapter": adapter, "base_model": base}
    parts |= {"evaluation": evaluation, "verdict": evaluation}
    references = {name: part.reference() for name, part in parts.items()}
    made = release.ReleaseRecord(MODEL, number, **references, mlflow_run_id=None, provenance={})
    return release.write_record(project, made)


def make_live(project: Project, number: int) -> None:
    def live(state: record.DeploymentRecord) -> record.DeploymentRecord:
        held = {"blue": number}
        return replace(state, slots=held).with_live_release(number, "deploy", None)

    record.change(project, TARGET, MODEL, live)


@pytest.fixture
def project(mlflow_project: Project) -> Project:
    """Releases 1 to 4; 4 is live, 3 was before it, 2 is quarantined, 3 approved."""
    project = mlflow_project
    shutil.copy(ROOT / "configs" / "fleet.yaml", project.root / "configs")
    for number in (1, 2, 3, 4):
        made = make_release(project)
        make_live(project, number)
        if number == 3:
            approvals.approve(project, made, "rounder", "ada")
    record.quarantine(project, MODEL, 2, "too pale")
    approvals.rating_secret(project)
    run = runs.training_run(project, MODEL, "k" * 64)
    runs.log_artifacts(project, run, [project.root / "configs" / "fleet.yaml"])
    (project.home / "dagster" / "history").mkdir(parents=True)
    with closing(sqlite3.connect(project.home / "dagster" / "history" / "runs.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, body TEXT)")
        body = json.dumps({"path": str(project.home / "store" / "x"), "host": "a"})
        database.execute("INSERT INTO events (body) VALUES (?)", [body])
        database.commit()
    for left_out in ("cache/latents/a", "work/a/b", "fleet/logs/x.log", "jobs/x/job.json"):
        write_json(project.home / left_out, {"made": "again"})
    return project


def lost(project: Project) -> Project:
    """The disk is gone; the project with another home, in whose name are a blank and an accent."""
    shutil.rmtree(project.home)
    return Project(project.root, project.root / "a hôme")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_live_is_served_after_the_disk_was_lost(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    states = files_of(project.home / "deployments") | files_of(project.home / "releases")
    numbers = release_numbers(project, MODEL)
    live, before, first = (release.read_record(project, MODEL, number) for number in (4, 3, 1))
    backup(project, tmp_path / "kept" / "monday", print)
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


# --- refusals ------------------------------------------------------------------------------------


def refused(action: Callable[[], None], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as found:
        action()
    assert "\n" not in str(found.value)


def test_a_backup_takes_a_new_place_outside_the_home_alone(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "inside").symlink_to(project.home)
    inside = project.home / "kept"
    for place, sentence in (
        ("there", "exists already; name a new folder"),
        ("link", "exists already; name a new folder"),
        (inside, "which it is to be a copy of"),
        ("inside/deeper/kept", "which it is to be a copy of"),
    ):
        refused(lambda place=place: backup(project, tmp_path / place, quiet), sentence)
    shutil.rmtree(project.home)
    refused(lambda: backup(project, tmp_path / "kept", quiet), "nothing to back up: .* not exist")
    assert not (tmp_path / "kept").exists()


def damage_artifact(project: Project) -> None:
    found = Store(project).open(release.read_record(project, MODEL, 4).adapter)
    path = found.path / "pipeline" / "weights.safetensors"
    path.chmod(0o644)
    path.write_bytes(bytes(1999) + b"x")


def damage_database(project: Project) -> None:
    with (project.home / "dagster" / "history" / "runs.db").open("r+b") as file:
        file.seek(4096)
        file.write(bytes(range(256)) * 16)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (damage_artifact, r"changed after it was made \(pipeline/weights.safetensors\)"),
        (damage_database, r"runs.db cannot be copied"),
    ],
)
def test_what_is_damaged_is_not_backed_up_as_if_it_were_sound(
    project: Project, tmp_path: Path, damage: Callable[[Project], None], sentence: str
) -> None:
    damage(project)
    refused(lambda: backup(project, tmp_path / "kept", quiet), sentence)
    assert not [path for path in tmp_path.iterdir() if "kept" in path.name]


def flip(kept: Path) -> None:
    path = next((kept / "home" / "store").rglob("weights.safetensors"))
    path.chmod(0o644)
    path.write_bytes(b"x" + path.read_bytes()[1:])


def cut(kept: Path) -> None:
    path = kept / "home" / "mlflow.db"
    path.write_bytes(path.read_bytes()[:5000])


def drop(kept: Path) -> None:
    (kept / "home" / "releases" / MODEL / "4.json").unlink()


def link_out(kept: Path) -> None:
    path = kept / "home" / "releases" / MODEL / "4.json"
    shutil.move(path, kept.parent / "4.json")
    path.symlink_to(kept.parent / "4.json")


def unfinished(kept: Path) -> None:
    (kept / "backup.json").unlink()


def half_list(kept: Path) -> None:
    path = kept / "backup.json"
    path.write_bytes(path.read_bytes()[:3000])


def shorter_list(kept: Path) -> None:
    found = read_json(kept / "backup.json")
    found["files"].pop(f"home/quarantine/{MODEL}/2.json")
    write_json(kept / "backup.json", found)


def newer(kept: Path) -> None:
    write_json(kept / "backup.json", {**read_json(kept / "backup.json"), "format": 2})


def leave(kept: Path) -> None:
    found = read_json(kept / "backup.json")
    found["files"]["home/../../out.json"] = {"size": 1, "sha256": "0"}
    write_json(kept / "backup.json", {**found, "digest": digest(found["files"])})


def test_a_damaged_backup_is_refused_and_the_file_named(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "sound", quiet)
    again = lost(project)
    for damage, sentence in (
        (flip, r"damaged or incomplete: home/store/.*/weights.safetensors is not what"),
        (cut, r"damaged or incomplete: home/mlflow.db is not what"),
        (drop, r"damaged or incomplete: home/releases/cloth/4.json is not what"),
        (link_out, r"damaged or incomplete: home/releases/cloth/4.json is not what"),
        (unfinished, r"has no backup.json: it is no backup, or was never finished"),
        (half_list, r"backup.json is damaged"),
        (shorter_list, r"its list is not the one that was written"),
        (newer, r"has the format 2, and this version of Adire Assets reads 1"),
        (leave, r"leaves the home"),
    ):
        kept = tmp_path / "kept"
        shutil.copytree(tmp_path / "sound", kept, symlinks=True)
        damage(kept)
        refused(partial(restore, again, kept, quiet), sentence)
        assert not again.home.exists()
        assert not [path for path in again.root.iterdir() if path.name.endswith(".unfinished")]
        shutil.rmtree(kept)
    restore(again, tmp_path / "sound", quiet)


def test_a_restore_takes_a_home_that_is_new_or_empty_alone(
    project: Project, tmp_path: Path
) -> None:
    backup(project, tmp_path / "kept", quiet)
    held = files_of(project.home)
    refused(lambda: restore(project, tmp_path / "kept", quiet), "is not empty; move it away")
    assert files_of(project.home) == held
    refused(lambda: restore(project, tmp_path / "none", quiet), "is no folder; name one that")
    again = lost(project)
    again.home.mkdir()
    # What a killed restore has left is in nobody's way.
    write_json(again.root / f".{again.home.name}.unfinished" / "store" / "x", {})
    restore(again, tmp_path / "kept", quiet)
    assert not (again.home / "store" / "x").exists()
    assert record.read(again, TARGET, MODEL).live == 4


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
