"""A home that is worth keeping: releases that are live, were live, are quarantined and approved."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, write_json
from adire_assets.gates import approvals
from adire_assets.serving import record, release
from adire_assets.tracking import registry, runs

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


def filled(project: Project) -> Project:
    """Releases 1 to 4; 4 is live, 3 was before it, 2 is quarantined, 3 approved."""
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
