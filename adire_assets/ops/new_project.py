"""`adire init`: a folder in which a user of the installed package begins.

What is written there are the repository's own files, which the wheel carries. pyproject.toml lists
them, in the table from which the wheel is built; a checkout reads the same table.
"""

import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from adire_assets.core.disk import writing
from adire_assets.core.errors import UserError

PACKAGE = Path(__file__).parents[1]
CARRIED = "project_files"  # of the installed package
# A new project often lies in a clone of an empty repository, or has its environment already.
BESIDE = (".git", ".venv")
EXAMPLE = "indigo"  # that the repository's dvc.yaml shows
DVC = {
    ".dvc/config": "[core]\n    analytics = false\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
}


def begin(directory: Path) -> list[str]:
    """Write a project into a new or empty folder; the steps that come next, one a line.

    UserError when something lies there already. The folder gets all files or none.
    """
    place = directory.absolute()
    with writing(place):
        _require_empty(place)
        new = not place.exists()
        beside = place.parent if new else place
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=".adire-init-") as scratch:
            made = Path(scratch) / "project"
            _write(made)
            if new:
                made.rename(place)
            else:
                for path in sorted(made.iterdir()):
                    path.rename(place / path.name)
    return [
        f"{directory} is a project; what comes next there:",
        f"copy configs/models/{_first()}.yaml to <name>.yaml, and name your data and base in it",
        "put files into data/<name>/, then `git init` (DVC needs git), `dvc add data`, and commit",
        "`adire up` starts the servers, `adire materialize <name>` goes from the data to them",
    ]


def project_files() -> dict[str, Path]:
    """{path in a project: the file to copy}."""
    carried = PACKAGE / CARRIED
    if carried.is_dir():
        files = (path for path in carried.rglob("*") if path.is_file())
        return {
            path.relative_to(carried).as_posix(): path
            for path in files
            if "__pycache__" not in path.parts  # pip compiles what it installs
        }
    checkout = PACKAGE.parent
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    wheel = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["wheel"]
    listed: Mapping[str, str] = wheel["force-include"]
    start = f"{PACKAGE.name}/{CARRIED}/"
    return {target.removeprefix(start): checkout / source for source, target in listed.items()}


def _first() -> str:
    """The first of the example models that a project begins with."""
    return min(Path(name).stem for name in project_files() if name.startswith("configs/models/"))


def _write(folder: Path) -> None:
    for name, source in project_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    for name, text in DVC.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    stages = folder / "dvc.yaml"
    text = stages.read_text(encoding="utf-8").replace(EXAMPLE, _first())
    stages.write_text(text, encoding="utf-8")


def _require_empty(place: Path) -> None:
    if not place.exists():
        return
    if held := sorted({path.name for path in place.iterdir()}.difference(BESIDE)):
        raise UserError(
            f"{place} is not empty (it holds {held[0]}); a project begins in a new or an empty "
            "folder, so that nothing of yours is overwritten"
        )
