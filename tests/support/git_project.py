"""A project in a git checkout with DVC, as a user has it, with data of two models."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from adire_assets.core.project import Project
from tests.support.fleets import make_fleet, write_fleet
from tests.support.instruction_data import alpaca
from tests.support.instruction_data import write as write_records
from tests.support.picture_folders import picture, save

ROOT = Path(__file__).parents[2]
IMAGES = {"resolution": 32, "instance_prompt": "a cloth", "minimum_images": 8}
DATA = {  # model -> (whose configuration it has, its data)
    "indigo": ("indigo", {"path": "data/indigo", "held_out_fraction": 0.3, **IMAGES}),
    "letters": ("adire_letters", {"path": "data/letters", "minimum_examples": 8}),
}
METADATA = 'file_name,text,author\np0.png,"a cloth, pale",ada\np1.png,a dark cloth,\n'
PERSON = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "olu"), ("EMAIL", "olu@example.com"))
}


def git(project: Project, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(project.root), *words],
        capture_output=True,
        text=True,
        env={**os.environ, **PERSON},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(project: Project, message: str = "as it is") -> str:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", message)
    return git(project, "rev-parse", "HEAD")


def isolate(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """DVC keeps what it remembers of users in `folder`."""
    for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        patch.setenv(name, str(folder / name))
    patch.setenv("DVC_NO_ANALYTICS", "1")
    patch.delenv("ADIRE_HOME", raising=False)


def make(root: Path) -> Project:
    """A project with 20 images, two of them with captions, and 40 records, committed."""
    project = Project(root, root / ".adire")
    shutil.copytree(ROOT / "configs", root / "configs")
    for path in (root / "configs" / "models").iterdir():
        path.unlink()
    for model, (like, data) in DATA.items():
        config = yaml.safe_load((ROOT / "configs" / "models" / f"{like}.yaml").read_text("utf-8"))
        config |= {"data": data, "enabled": True}
        project.model_file(model).write_text(yaml.safe_dump(config))
    write_fleet(project, make_fleet())
    for number in range(20):
        save(root / "data" / "indigo", f"p{number}.png", picture(number))
    (root / "data" / "indigo" / "metadata.csv").write_text(METADATA)
    write_records(root / "data/letters/letters.jsonl", [alpaca(n) for n in range(40)])
    shutil.copy(ROOT / ".dvcignore", root)
    (root / ".gitignore").write_text(".adire/\n")
    git(project, "init", "--quiet", "--initial-branch", "main")
    from dvc.repo import Repo

    with Repo.init(str(root)) as repo:
        repo.add([str(root / "data")])
    commit(project)
    return project


def copy(template: Project, root: Path) -> Project:
    shutil.copytree(template.root, root, symlinks=True)
    return Project(root, root / ".adire")


def is_clean(project: Project) -> bool:
    """Whether git and DVC find the checkout as its commit says."""
    from dvc.repo import Repo

    with Repo(str(project.root)) as repo:
        return git(project, "status", "--porcelain") == "" and repo.status() == {}
