"""DVC look-ups, the working tree, versions and metrics, against real DVC in scratch projects."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from adire_assets.core.errors import UserError
from adire_assets.tracking.dvc import working_tree
from adire_assets.tracking.dvc.versions import subtree, write_metrics
from tests.support.dvc_project import (
    REPOSITORY,
    add,
    contents,
    dvc,
    indigo,
    later_version,
    objects,
    run_export,
    run_pull,
    verify,
    write,
)

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
