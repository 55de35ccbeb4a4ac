"""What would not bring a home back is neither backed up nor restored, and the reason is told."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from adire_assets.core.errors import UserError
from adire_assets.core.lineage import digest
from adire_assets.core.project import Project
from adire_assets.core.store import Store, read_json, write_json
from adire_assets.ops.backup import backup, restore
from adire_assets.serving import record, release
from tests.support.kept_home import MODEL, TARGET, files_of, filled, lost, quiet


@pytest.fixture
def project(project: Project) -> Project:
    return filled(project)


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
