"""Commands as a user types them in a scratch repository, and those that a message advises."""

import contextlib
import os
import re
import shlex
import subprocess
from pathlib import Path

from dvc.cli import main as dvc_main

from adire_assets.core.project import Project
from tests.support.dvc_project import (
    run_pull,
    write,
)

WHO = {"NAME": "t", "EMAIL": "t@example.org"}
GIT_NAMES = {f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in WHO.items()}


def shell(root: Path, command: str) -> None:
    """Run commands, joined by &&, as a user types them in the project's root."""
    if command == "adire pull":
        run_pull(Project(root, root / ".adire"), "data.dvc", "weights.dvc")
        return
    for one in command.split(" && "):
        if one.startswith("dvc "):  # in this process, which has imported it already
            with contextlib.chdir(root):
                assert dvc_main(shlex.split(one)[1:]) == 0, one
            continue
        done = subprocess.run(
            ["bash", "-c", one],
            cwd=root,
            capture_output=True,
            text=True,
            env={**os.environ, **GIT_NAMES},
        )
        assert done.returncode == 0, f"{one}: {done.stdout}{done.stderr}"


def advised(message: str) -> list[str]:
    return re.findall(r"`([^`]+)`", message)


def commit(project: Project) -> None:
    shell(project.root, "git add -A && git commit -qm x")


def change(project: Project, content: str) -> None:
    write(project.root, {"data/indigo/a.png": content})
    shell(project.root, "dvc add data")
    commit(project)


def clone(project: Project, folder: Path, settings: str = "") -> Project:
    shell(project.root, f"git {settings} clone -q . {folder}")
    return Project(folder, folder / ".adire")


def damage(place: Path, content: str) -> None:
    place.chmod(0o644)
    place.write_text(content)
    place.chmod(0o444)
