"""The pull: what it brings, from which remote, and the user's files that it leaves alone."""

import shutil
import subprocess
import sys
import threading

import pytest

from adire_assets.core import job_folder
from adire_assets.core.errors import UserError
from tests.support.dvc_project import add, contents, indigo, lose, run_pull, verify, write


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
