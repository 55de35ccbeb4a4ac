"""Sensors go live from a clean commit only: what counts as one, and what turns that off."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import dagster as dg
import pytest

from adire_assets.config import held_weights
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.defs import sensors
from adire_assets.gates import clean_commit, policy_comparison
from adire_assets.line import changes
from adire_assets.tracking.dvc.files import md5_of_bytes

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
CONFIG = """\
data: {path: cloth, dvc_file: cloth.dvc, resolution: 64, instance_prompt: cloth}
family: diffusion
base_model: {source: base_models/tiny}
evaluation: {judge: {source: judge}, prompt_set: prompts.yaml, gates: {clip_s_minimum: 1.5}}
"""
DECIDING = (
    "configs/models/cloth.yaml",
    "configs/fleet.yaml",
    "prompts.yaml",
    "cloth.dvc",
    "base_models/tiny.dvc",
    "adire_assets/core/store.py",
    "adire_assets/serving/gateway.lua",
    "adire_assets/evaluation/templates/ab_sheet.js",
    "triton_models/diffusion/config.pbtxt",
    "dagster_defs.py",
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with everything committed, and a file beside it that decides nothing."""
    root = tmp_path / "project"
    for name in (*DECIDING, "notes.txt", "metrics/cloth.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1\n")
    shutil.copy(ROOT / "configs" / "fleet.yaml", root / "configs")
    shutil.copy(ROOT / "configs" / "prompts" / "adire.yaml", root / "prompts.yaml")
    weights = {"model_index.json": b"{}", "unet/model.safetensors": b"1"}
    listed = [{"md5": md5_of_bytes(c), "relpath": name} for name, c in weights.items()]
    listing = json.dumps(listed).encode()
    md5 = f"{md5_of_bytes(listing)}.dir"
    files = {f"base_models/tiny/{name}": content for name, content in weights.items()}
    files[f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"] = listing
    files["base_models/tiny.dvc"] = f"outs: [{{md5: {md5}, hash: md5, path: tiny}}]\n".encode()
    files[".dvc/.gitignore"] = b"/cache\n"
    files["base_models/.gitignore"] = b"/tiny\n"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "configs" / "models" / "cloth.yaml").write_text(CONFIG)
    (root / "configs" / "models" / "other.yaml").write_text(CONFIG)
    (root / ".gitignore").write_text(".adire/\nhidden*\n")
    found = Project(root, root / ".adire")
    git(found, "init", "-q")
    commit(found)
    return found


def git(project: Project, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=True)
    return done.stdout


def commit(project: Project) -> None:
    git(project, "add", ".")
    git(project, "commit", "-qm", "as it is")


def change(project: Project, name: str, text: str = "# another\n") -> None:
    with (project.root / name).open("a") as file:
        file.write(text)


def test_a_clean_commit_may_go_live_whatever_else_was_changed(project: Project) -> None:
    for name in ("notes.txt", "metrics/cloth.json", "configs/models/other.yaml"):
        change(project, name)
    (project.root / "scratch.py").write_text("")
    assert clean_commit.uncommitted(project, MODEL) == []
    assert clean_commit.refusal(project, MODEL) is None


@pytest.mark.parametrize("name", DECIDING)
@pytest.mark.parametrize("how", ["changed", "staged", "hidden"])
def test_a_file_that_decides_is_named(project: Project, name: str, how: str) -> None:
    change(project, name)
    if how == "staged":
        git(project, "add", name)
    if how == "hidden":
        git(project, "update-index", "--assume-unchanged", name)
        assert git(project, "status", "--porcelain") == ""
    assert clean_commit.uncommitted(project, MODEL) == [f"{name} (changed)"]
    why = clean_commit.refusal(project, MODEL)
    assert why is not None and why.startswith(f"not committed: {name} (changed); commit them")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("adire_assets/core/hidden.py", "not in the commit"),
        ("base_models/other/base.dvc", "not in the commit"),
        ("configs/takedowns.yaml", "not in the commit"),
    ],
)
def test_a_file_that_git_does_not_know_is_named(project: Project, name: str, told: str) -> None:
    (project.root / name).parent.mkdir(exist_ok=True)
    (project.root / name).write_text("")
    assert clean_commit.uncommitted(project, MODEL) == [f"{name} ({told})"]


def test_a_list_of_takedowns_that_is_gone_is_named(project: Project) -> None:
    file = project.root / "configs" / "takedowns.yaml"
    file.write_text("takedowns: []\n")
    commit(project)
    file.unlink()
    assert clean_commit.uncommitted(project, MODEL) == ["configs/takedowns.yaml (deleted)"]


@pytest.mark.parametrize("how", ["changed", "added", "deleted"])
def test_weights_that_are_not_those_of_their_dvc_file_are_named(project: Project, how: str) -> None:
    unet = project.root / "base_models" / "tiny" / "unet"
    if how == "deleted":
        (unet / "model.safetensors").unlink()
    else:
        name = "model.safetensors" if how == "changed" else "other.safetensors"
        (unet / name).write_bytes(b"2")
    assert git(project, "status", "--porcelain") == ""
    told = ["base_models/tiny (not what base_models/tiny.dvc says)"]
    assert clean_commit.uncommitted(project, MODEL) == told
    pinned = CONFIG.replace("base_models/tiny}", f"base_models/tiny, sha256: {64 * '0'}}}")
    project.model_file(MODEL).write_text(pinned)  # which the base's own step compares
    commit(project)
    assert clean_commit.uncommitted(project, MODEL) == []


def test_a_model_that_was_never_committed_and_a_file_that_is_gone_are_named(
    project: Project,
) -> None:
    shutil.copy(project.model_file(MODEL), project.model_file("young"))
    (project.root / "adire_assets" / "core" / "store.py").unlink()
    assert clean_commit.uncommitted(project, "young") == [
        "adire_assets/core/store.py (deleted)",
        "configs/models/young.yaml (not in the commit)",
    ]


def test_a_fleet_file_elsewhere_is_named(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(project.root / "configs" / "fleet.yaml", tmp_path / "fleet.yaml")
    monkeypatch.setenv("ADIRE_FLEET", str(tmp_path / "fleet.yaml"))
    assert clean_commit.uncommitted(project, MODEL) == ["../fleet.yaml (outside the repository)"]


def test_the_option_counts_as_it_is_committed(project: Project) -> None:
    path = project.model_file(MODEL)
    path.write_text(f"require_clean_commit: false\n{CONFIG.replace('1.5', '0.1')}")
    assert "cloth.yaml (changed)" in (clean_commit.refusal(project, MODEL) or "")
    commit(project)
    change(project, "configs/fleet.yaml")
    assert clean_commit.uncommitted(project, MODEL) == ["configs/fleet.yaml (changed)"]
    assert clean_commit.refusal(project, MODEL) is None


def test_a_copy_without_git_goes_live_and_a_git_that_does_not_answer_hinders(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project.root, tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))
    copy = Project(tmp_path / "copy", tmp_path / "copy" / ".adire")
    change(copy, "configs/models/cloth.yaml")
    assert clean_commit.refusal(copy, MODEL) is None
    (project.root / ".git" / "HEAD").write_text("spoilt\n")
    with pytest.raises(UserError, match="git cannot tell what is committed"):
        clean_commit.refusal(project, MODEL)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install git"):
        clean_commit.refusal(project, MODEL)


def test_a_project_inside_a_larger_checkout_counts_by_that(project: Project) -> None:
    inner = project.root / "products" / "cloth"
    shutil.copytree(
        project.root, inner, ignore=shutil.ignore_patterns(".git", "products", ".gitignore")
    )
    found = Project(inner, inner / ".adire")
    assert clean_commit.refusal(found, MODEL) is None  # the checkout knows nothing of it yet
    commit(project)
    change(found, "prompts.yaml")
    assert clean_commit.uncommitted(found, MODEL) == ["products/cloth/prompts.yaml (changed)"]


def test_a_hook_does_not_point_at_another_checkout(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    change(project, "cloth.dvc")
    assert clean_commit.uncommitted(project, MODEL) == ["cloth.dvc (changed)"]


# --- the sensor --------------------------------------------------------------------------------


def tick(project: Project, monkeypatch: pytest.MonkeyPatch) -> dg.RunRequest | str:
    """What the sensor says about a state that was never materialized."""
    monkeypatch.setattr(changes, "source_keys", lambda *_: {"training_config": "new"})
    monkeypatch.setattr(changes, "code_and_libraries", lambda *_: {})
    monkeypatch.setattr(held_weights, "known", lambda *_: None)
    sensor = sensors.model_sensor(project, MODEL, "cloth_line")
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance) as context,
    ):
        answer = sensor.evaluate_tick(context)
    return answer.run_requests[0] if answer.run_requests else str(answer.skip_message)


def test_the_tick_names_what_is_not_committed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(tick(project, monkeypatch), dg.RunRequest)
    strict = policy_comparison.compare_now(project, MODEL)
    Store(project).build(Recipe("promotion_verdict", MODEL), lambda folder: strict.facts())
    project.model_file(MODEL).write_text(CONFIG.replace("1.5", "0.1"))
    told = tick(project, monkeypatch)
    assert isinstance(told, str) and "not committed: configs/models/cloth.yaml (changed)" in told
    commit(project)
    started = tick(project, monkeypatch)
    assert isinstance(started, dg.RunRequest)
    assert started.tags["adire/policy"] == (
        "weaker than that of the verdicts before it: gates.clip_s_minimum 1.5 -> 0.1"
    )


@pytest.mark.parametrize("tag", [sensors.STATE_TAG, sensors.APPROVAL_TAG])
def test_a_run_of_a_sensor_asks_again_before_it_deploys(project: Project, tag: str) -> None:
    started, by_hand = (dg.DagsterRun(job_name="line", tags=tags) for tags in ({tag: "x"}, {}))
    sensors.require_committed(project, MODEL, started)
    change(project, "configs/fleet.yaml")
    with pytest.raises(
        UserError, match=r"a sensor or in the studio; not committed: configs/fleet\.yaml"
    ):
        sensors.require_committed(project, MODEL, started)
    sensors.require_committed(project, MODEL, by_hand)


def test_git_finds_its_way_without_a_locale(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    name = os.fsdecode("base_models/ọjà.dvc".encode())
    (project.root / name).write_text("")
    assert clean_commit.uncommitted(project, MODEL) == [f"{name} (not in the commit)"]
