"""What tests of data do in a scratch project that DVC really keeps (tests/tracking/conftest.py)."""

import subprocess
import sys
from pathlib import Path

from adire_assets.core.project import Project
from adire_assets.tracking.dvc.pull import pull
from adire_assets.tracking.dvc.versions import export, subtree, verify_working_tree

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


def lose(project: Project, name: str) -> None:
    """Remove one file's content from the embedded remote."""
    md5 = indigo(project).files[name]
    (project.root / ".dvc" / "embedded" / "files" / "md5" / md5[:2] / md5[2:]).unlink()


REPOSITORY = Path(__file__).parents[2]


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
