"""DVC look-ups, the pull and the metrics files, against real DVC in scratch projects."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from adire_assets.core import job_folder
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.tracking.dvc import working_tree
from adire_assets.tracking.dvc.pull import pull
from adire_assets.tracking.dvc.versions import export, subtree, verify_working_tree, write_metrics

REPOSITORY = Path(__file__).parents[2]
FILES = {
    "data/indigo/a.png": "first",
    "data/indigo/b.png": "second",
    "data/indigo/sub/c.png": "third",
    "data/indigo/metadata.csv": "file_name,text\n",
    "data/other/x.png": "of another model",
}


def dvc(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def indigo(project: Project):
    return subtree(project, "data.dvc", "data/indigo")


def verify(project: Project) -> None:
    verify_working_tree(project, "data.dvc", "data/indigo", indigo(project))


def run_pull(project: Project, *targets: str) -> dict[str, list[str]]:
    return pull(
        root=str(project.root), targets=[*targets] or ["data.dvc"], progress=lambda *_, **__: None
    )


def contents(project: Project) -> dict[str, str]:
    return {
        path.relative_to(project.root).as_posix(): path.read_text()
        for path in (project.root / "data").rglob("*")
        if path.is_file()
    }


def add(project: Project, target: str = "data") -> None:
    """`dvc add` as in a checkout without git."""
    local = project.root / ".dvc" / "config.local"
    local.write_text(f"{local.read_text() if local.exists() else ''}\n[core]\n    no_scm = true\n")
    dvc(project.root, "add", target)


# --- look-ups ---


def test_a_subtree_holds_the_files_of_its_folder_alone(project):
    found = indigo(project)
    assert sorted(found.files) == ["a.png", "b.png", "metadata.csv", "sub/c.png"]
    assert found.files["a.png"] == "8b04d5e3775d298e78455efc5ca404d5"
    assert found.dvc_hash.endswith(".dir")
    assert f"md5: {found.dvc_hash}" in (project.root / "data.dvc").read_text()
    assert sorted(subtree(project, "data.dvc", "data").files) == [
        "indigo/a.png", "indigo/b.png", "indigo/metadata.csv", "indigo/sub/c.png", "other/x.png",
    ]  # fmt: skip


def test_another_models_data_leaves_the_hash_alone_and_ones_own_changes_it(project):
    before = indigo(project)
    write(project.root, {"data/other/y.png": "more"})
    add(project)
    between = indigo(project)
    assert between.dvc_hash != before.dvc_hash
    assert between.hash == before.hash
    write(project.root, {"data/indigo/metadata.csv": "file_name,text\na.png,x\n"})
    dvc(project.root, "add", "data")
    assert indigo(project).hash != before.hash


def test_the_listing_is_found_in_a_cache_elsewhere(project, tmp_path):
    shutil.move(project.root / ".dvc" / "embedded", tmp_path / "shared")
    with pytest.raises(UserError, match="adire pull"):
        indigo(project)
    (project.root / ".dvc" / "config.local").write_text("[cache]\n    dir = ../../shared\n")
    assert len(indigo(project).files) == 4


def test_a_damaged_listing_does_not_count(project):
    good = indigo(project)
    name = Path("files", "md5", good.dvc_hash[:2], good.dvc_hash[2:])
    damaged = project.root / ".dvc" / "cache" / name
    damaged.parent.mkdir(parents=True)
    damaged.write_text("[]")
    assert indigo(project) == good
    (project.root / ".dvc" / "embedded" / name).unlink()
    with pytest.raises(UserError, match="adire pull"):
        indigo(project)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "outs: [",
        "outs: []",
        "outs:\n- path: data\n",
        "outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e.dir\n  path: data\n",
        "outs:\n- md5: ../../etc\n  hash: md5\n  path: data\n",
        "outs:\n- md5: 7\n  hash: md5\n  path: data\n",
        f'outs:\n- md5: {"0" * 32}.dir\n  hash: md5\n  path: "da\\0ta"\n',
        "[" * 3000,
    ],
)
def test_a_malformed_dvc_file_is_refused_with_the_command_that_makes_it_anew(project, content):
    (project.root / "data.dvc").write_text(content)
    with pytest.raises(UserError, match=r"^data\.dvc .*`dvc add data`") as error:
        indigo(project)
    assert "\n" not in str(error.value)


def test_a_folder_in_place_of_the_dvc_file_is_told(project):
    (project.root / "data.dvc").unlink()
    (project.root / "data.dvc").mkdir()
    with pytest.raises(UserError, match=r"data\.dvc cannot be read .*; move it away"):
        indigo(project)


def test_a_missing_dvc_file_an_empty_folder_and_a_path_outside_are_refused(project):
    with pytest.raises(UserError, match="no files below data/blue: put files there"):
        subtree(project, "data.dvc", "data/blue")
    with pytest.raises(UserError, match="pins data, which does not hold configs"):
        subtree(project, "data.dvc", "configs")
    with pytest.raises(UserError, match="leaves the project folder"):
        subtree(project, "data.dvc", "../data")
    (project.root / "data.dvc").write_text(
        "outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e.dir\n  hash: md5\n  path: ../data\n"
    )
    with pytest.raises(UserError):
        indigo(project)
    (project.root / "data.dvc").unlink()
    with pytest.raises(UserError, match=r"data\.dvc does not exist .*`dvc add data` makes it"):
        indigo(project)


# --- the working tree ---


def test_a_working_tree_as_pinned_passes_and_what_dvc_ignores_does_not_count(project):
    verify(project)
    write(project.root, {"data/indigo/.git/x": "", ".dvcignore": "*.tmp\n/data/indigo/sub/n?.txt"})
    write(project.root, {"data/indigo/sub/y.tmp": "", "data/indigo/sub/n1.txt": ""})
    (project.root / "data" / "indigo" / "empty").mkdir()
    verify(project)
    write(project.root, {"data/indigo/sub/m1.txt": ""})
    with pytest.raises(UserError, match=r"1 extra \(sub/m1\.txt\)"):
        verify(project)
    # DVC sees the same: it lists the one file that counts.
    before = set(indigo(project).files)
    add(project)
    assert set(indigo(project).files) - before == {"sub/m1.txt"}


def test_differences_are_named_and_both_commands_mend_them(project):
    run_pull(project, "weights.dvc")
    pinned = contents(project)
    add(project)
    write(project.root, {"data/indigo/a.png": "FIRST", "data/indigo/new.png": "n"})
    write(project.root, {"data/indigo/new2.png": "n", "data/other/x.png": "not mine"})
    (project.root / "data" / "indigo" / "sub" / "c.png").unlink()
    with pytest.raises(UserError) as error:
        verify(project)
    assert str(error.value) == (
        "data/indigo differs from data.dvc: 1 changed (a.png), 1 missing (sub/c.png), 2 extra "
        "(new.png, ...); to take the folder as it is run `dvc add data`, to go back to the pinned "
        "version `dvc checkout data.dvc --force`"
    )
    dvc(project.root, "checkout", "data.dvc", "--force")
    verify(project)
    assert contents(project) == pinned
    write(project.root, {"data/indigo/a.png": "FIRST"})
    dvc(project.root, "add", "data")
    verify(project)


def test_an_absent_working_tree_asks_for_a_pull(project):
    shutil.rmtree(project.root / "data")
    with pytest.raises(UserError, match=r"the 4 files .* run `adire pull`"):
        verify(project)


def test_a_change_is_seen_when_size_and_time_stamp_stay(project, monkeypatch):
    monkeypatch.setattr(working_tree, "SETTLED_SECONDS", -1)
    verify(project)
    path = project.root / "data" / "indigo" / "a.png"
    state = path.stat()
    path.write_text("FIRST")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(UserError, match=r"1 changed \(a\.png\)"):
        verify(project)


def test_a_settled_file_is_not_read_again(project, monkeypatch):
    monkeypatch.setattr(working_tree, "SETTLED_SECONDS", -1)
    verify(project)
    monkeypatch.setattr(working_tree, "md5_of", None)
    verify(project)
    (project.root / "data" / "indigo" / "a.png").write_text("FIRST")
    with pytest.raises(TypeError):
        verify(project)


def test_a_file_that_may_still_change_is_not_remembered(project):
    (project.root / "data" / "indigo" / "a.png").touch()
    verify(project)
    assert not (project.home / "md5").exists()


# --- pull ---


def test_pull_fills_an_empty_clone_without_git_and_changes_nothing_else(project):
    expected = contents(project)
    shutil.rmtree(project.root / "data")
    kept = {name: (project.root / name).read_bytes() for name in (".dvc/config", "data.dvc")}
    result = run_pull(project, "data.dvc", "weights.dvc")
    assert result == {"pulled": ["data.dvc"], "unchanged": ["weights.dvc"]}
    assert contents(project) == expected
    assert {name: (project.root / name).read_bytes() for name in kept} == kept
    new = {path.name for path in project.root.iterdir()} - {".adire"}
    assert new == {".dvc", ".dvcignore", "configs", "data", "data.dvc", "weights", "weights.dvc"}
    assert run_pull(project) == {"pulled": [], "unchanged": ["data.dvc"]}


def test_pull_in_a_git_checkout_leaves_git_clean(project):
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
            cwd=project.root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    (project.root / ".gitignore").write_text("/data\n/weights\n/.adire\n")
    (project.root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "x")
    shutil.rmtree(project.root / "data")
    shutil.rmtree(project.root / "weights")
    assert run_pull(project, "data.dvc", "weights.dvc")["pulled"] == ["data.dvc", "weights.dvc"]
    verify(project)
    assert git("status", "--porcelain") == ""


def test_nothing_to_pull_and_look_ups_import_no_dvc(project):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from adire_assets.config.model import Project\n"
        "from adire_assets.tracking.dvc.versions import export, subtree, verify_working_tree\n"
        "from adire_assets.tracking.dvc.pull import pull\n"
        "root = Path(sys.argv[1]); project = Project(root, root / '.adire')\n"
        "found = subtree(project, 'data.dvc', 'data/indigo')\n"
        "verify_working_tree(project, 'data.dvc', 'data/indigo', found)\n"
        "done = pull(root=str(root), targets=['data.dvc'], progress=print)\n"
        "assert done['unchanged'] == ['data.dvc'], done\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'dvc']\n"
    )
    subprocess.run([sys.executable, "-c", script, str(project.root)], check=True)


def test_pull_keeps_files_that_only_the_user_has(project):
    run_pull(project)
    write(project.root, {"data/indigo/a.png": "mine", "data/indigo/new.png": "mine too"})
    (project.root / "data" / "indigo" / "b.png").unlink()
    changed = contents(project)
    with pytest.raises(UserError, match="Can't remove the following unsaved files") as error:
        run_pull(project)
    assert "`dvc add data` takes them in" in str(error.value)
    assert "a.png" in str(error.value)
    assert "\x1b" not in str(error.value)
    assert contents(project) == changed


def test_pull_moves_an_untouched_tree_to_another_version(project):
    run_pull(project)
    first, expected = (project.root / "data.dvc").read_text(), contents(project)
    write(project.root, {"data/indigo/a.png": "better"})
    add(project)
    (project.root / "data.dvc").write_text(first)
    assert run_pull(project)["pulled"] == ["data.dvc"]
    assert contents(project) == expected


def lose(project: Project, name: str) -> None:
    """Remove one file's content from the embedded remote."""
    md5 = indigo(project).files[name]
    (project.root / ".dvc" / "embedded" / "files" / "md5" / md5[:2] / md5[2:]).unlink()


def test_pull_names_what_no_remote_has_and_harms_no_file(project):
    lose(project, "a.png")
    (project.root / "data" / "indigo" / "a.png").unlink()
    there = contents(project)
    with pytest.raises(UserError) as error:
        run_pull(project)
    expected = "1 files are in none of the DVC remotes (embedded), such as indigo/a.png"
    assert expected in str(error.value)
    assert contents(project) == there


def test_pull_without_any_remote_harms_no_file(project):
    (project.root / ".dvc" / "config").write_text("")
    (project.root / "data" / "indigo" / "a.png").unlink()
    there = contents(project)
    with pytest.raises(UserError, match="no DVC remote is configured"):
        run_pull(project)
    assert contents(project) == there


def test_pull_tries_the_default_remote_and_then_the_embedded_one(project, tmp_path):
    lose_from = tmp_path / "team"
    shutil.copytree(project.root / ".dvc" / "embedded", lose_from)
    config = project.root / ".dvc" / "config"
    config.write_text(f"[core]\n    remote = team\n['remote \"team\"']\n    url = {lose_from}\n")
    embedded = "['remote \"embedded\"']\n    url = embedded\n"
    config.write_text(config.read_text() + embedded)
    expected = contents(project)
    lose(project, "a.png")  # only the default remote has it
    md5 = indigo(project).files["b.png"]
    (lose_from / "files" / "md5" / md5[:2] / md5[2:]).unlink()  # only the embedded one has it
    shutil.rmtree(project.root / "data")
    assert run_pull(project)["pulled"] == ["data.dvc"]
    assert contents(project) == expected


def test_the_embedded_remote_helps_when_the_default_one_is_out_of_reach(project):
    config = project.root / ".dvc" / "config"
    config.write_text(
        config.read_text() + "[core]\n    remote = gone\n['remote \"gone\"']\n    url = s3://x/y\n"
    )
    shutil.rmtree(project.root / "weights")
    assert run_pull(project, "weights.dvc")["pulled"] == ["weights.dvc"]
    assert (project.root / "weights" / "model.bin").read_text() == "w"


def test_an_output_that_names_its_remote_comes_from_there(project, tmp_path):
    shutil.move(project.root / ".dvc" / "embedded", tmp_path / "team")
    config = project.root / ".dvc" / "config"
    config.write_text(config.read_text() + f"['remote \"team\"']\n    url = {tmp_path / 'team'}\n")
    with (project.root / "weights.dvc").open("a") as file:
        file.write("  remote: team\n")
    shutil.rmtree(project.root / "weights")
    assert run_pull(project, "weights.dvc")["pulled"] == ["weights.dvc"]


def test_pull_waits_for_the_projects_dvc_lock(project):
    done = threading.Event()
    thread = threading.Thread(target=lambda: (run_pull(project), done.set()))
    with project.locks.acquire("dvc"):
        thread.start()
        assert not done.wait(1)  # nothing is to be pulled: without the lock it returns at once
    assert done.wait(60)
    thread.join()


def test_pull_is_a_worker_function_and_its_errors_are_sentences(project, tmp_path):
    shutil.rmtree(project.root / "data")
    (project.root / ".dvc" / "config").write_text("")
    job = tmp_path / "job"
    job.mkdir()
    arguments = {"root": project.root, "targets": ["data.dvc"]}
    job_folder.write_job(job, "adire_assets.tracking.dvc.pull:pull", arguments, 1)
    done = subprocess.run(job_folder.command(job), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert (job / "error.txt").read_text().startswith("data.dvc: no DVC remote is configured")


# --- metrics ---


def test_dvc_shows_and_compares_the_metrics_and_plots_that_runs_write(tmp_path, project):
    shutil.copy(REPOSITORY / "dvc.yaml", project.root)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=project.root, check=True)
    (project.root / ".gitignore").write_text("/data\n/weights\n")
    for version, loss in ((0.5, 0.9), (0.75, 0.3)):
        curve = tmp_path / "loss.csv"
        curve.write_text(f"step,loss\n1,1.0\n2,{loss}\n")
        write_metrics(project, "indigo", {"clip_s": version, "kid": {"adapter": 1.5}}, curve)
        if version == 0.5:
            subprocess.run([*git, "add", "-A"], cwd=project.root, check=True)
            subprocess.run([*git, "commit", "-qm", "x"], cwd=project.root, check=True)
    shown = json.loads(dvc(project.root, "metrics", "show", "--json"))
    assert shown[""]["data"]["metrics/indigo.json"]["data"]["clip_s"] == 0.75
    compared = json.loads(dvc(project.root, "metrics", "diff", "--json"))
    change = {"old": 0.5, "new": 0.75, "diff": 0.25}
    assert compared["metrics/indigo.json"]["clip_s"] == change
    plots = json.loads(dvc(project.root, "plots", "show", "--json", "-o", str(tmp_path / "plots")))
    ((plot,),) = plots["data"].values()
    points = [(row["step"], row["loss"]) for row in plot["content"]["data"]["values"]]
    assert points == [("1", "1.0"), ("2", "0.3")]
    dvc(project.root, "repro")
    dvc(project.root, "status")
    assert (project.root / "metrics" / "indigo_loss.csv").read_text() == "step,loss\n1,1.0\n2,0.3\n"


# --- another version ---


def run_export(project: Project, version, output: Path) -> dict[str, str]:
    export(
        root=str(project.root),
        home=str(project.home),
        dvc_hash=version.dvc_hash,
        data_hash=version.hash,
        path="data/indigo",
        output=str(output),
        progress=lambda *_, **__: None,
    )
    found = (path for path in output.rglob("*") if path.is_file())
    return {path.relative_to(output).as_posix(): path.read_text() for path in found}


def later_version(project: Project) -> None:
    (project.root / "data" / "indigo" / "a.png").write_text("later")
    add(project)


def objects(project: Project) -> list[Path]:
    return sorted((project.root / ".dvc" / "cache").rglob("*"))


def test_an_earlier_version_comes_out_of_the_remote_and_nothing_else_changes(project, tmp_path):
    before = indigo(project)
    later_version(project)
    there, cached = contents(project), objects(project)
    assert run_export(project, before, tmp_path / "out") == {
        "a.png": "first",
        "b.png": "second",
        "sub/c.png": "third",
        "metadata.csv": "file_name,text\n",
    }
    assert (contents(project), objects(project)) == (there, cached)


def test_a_version_that_was_never_pushed_comes_out_of_the_cache(project, tmp_path):
    later_version(project)
    version = indigo(project)
    (project.root / "data" / "indigo" / "a.png").write_text("later still")
    assert run_export(project, version, tmp_path / "out")["a.png"] == "later"


def test_a_damaged_object_is_not_taken_and_not_touched(project, tmp_path):
    version = indigo(project)
    stored = project.root / ".dvc" / "embedded" / "files" / "md5" / version.files["a.png"][:2]
    [damaged] = stored.iterdir()
    damaged.chmod(0o644)
    damaged.write_text("fir")
    told = rf"\(embedded\), 1 objects are missing, such as {version.files['a.png']}"
    with pytest.raises(UserError, match=told):
        run_export(project, version, tmp_path / "out")
    assert damaged.read_text() == "fir"
