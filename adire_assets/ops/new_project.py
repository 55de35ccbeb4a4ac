"""`adire init`: a new project for users of the installed package.

What is written there are the repository's own files, which the wheel carries. pyproject.toml lists
them, in the table from which the wheel is built; a checkout reads the same table.
"""

import tempfile
import tomllib
from pathlib import Path

from adire_assets.core.disk import writing
from adire_assets.core.errors import UserError

PACKAGE = Path(__file__).parents[1]
CARRIED = "project_files"  # of the installed package
# A new project often lies in a clone of an empty repository, or has its environment already.
BESIDE = (".git", ".venv")
EXAMPLE = b"indigo"  # that the repository's dvc.yaml shows
DVC = {
    ".dvc/config": b"[core]\n    analytics = false\n",
    ".dvc/.gitignore": b"/config.local\n/tmp\n/cache\n",
}


def begin(directory: Path) -> list[str]:
    """Write a project into a new or empty folder; the steps that come next, one a line.

    UserError when something lies there already. The folder gets all files or none.
    """
    place, files = directory.absolute(), project_files()
    # The first of the example models that a project begins with.
    first = min(Path(name).stem for name in files if name.startswith("configs/models/"))
    contents = {name: source.read_bytes() for name, source in files.items()} | DVC
    contents["dvc.yaml"] = contents["dvc.yaml"].replace(EXAMPLE, first.encode())
    with writing(place):
        new = not place.exists()
        if not new and (held := sorted({path.name for path in place.iterdir()}.difference(BESIDE))):
            raise UserError(
                f"{place} is not empty (it holds {held[0]}); a project begins in a new or an empty "
                "folder, so that nothing of yours is overwritten"
            )
        beside = place.parent if new else place
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=".adire-init-") as scratch:
            made = Path(scratch) / "project"
            for name, content in contents.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(content)
            for path in [made] if new else sorted(made.iterdir()):
                path.rename(place if new else place / path.name)
    return [
        f"{directory} is a project; what comes next there:",
        f"copy configs/models/{first}.yaml to <name>.yaml, and name your data and base in it",
        "put files into data/<name>/, then `git init` (DVC needs git), `dvc add data`, and commit",
        "`adire up` starts the servers, `adire materialize <name>` goes from the data to them",
    ]


def project_files() -> dict[str, Path]:
    """{path in a project: the file to copy}."""
    carried = PACKAGE / CARRIED
    if carried.is_dir():
        return {
            path.relative_to(carried).as_posix(): path
            for path in carried.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts  # pip compiles what it installs
        }
    checkout = PACKAGE.parent
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    wheel = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["wheel"]
    start = f"{PACKAGE.name}/{CARRIED}/"
    return {
        target.removeprefix(start): checkout / source
        for source, target in wheel["force-include"].items()
    }
