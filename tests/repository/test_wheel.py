"""The wheel works without the repository: `adire init` begins a project, which Dagster loads."""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from adire_assets.core.errors import UserError
from adire_assets.ops.new_project import begin, project_files

ROOT = Path(__file__).parents[2]
CODE_OF_A_CHECKOUT = ("adire_assets", "__editable__", "_editable")
# What an installed release is built from, in the project around the working directory.
BACKEND = """
import json
from pathlib import Path
import adire_assets
from adire_assets.core.project import Project
from adire_assets.families.diffusion import FAMILY
from adire_assets.serving import release
from dagster_defs import defs
keys = sorted(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys())
print(json.dumps([adire_assets.__file__, release.backend_hash(Project.find(), FAMILY), keys]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from, without what runs leave there."""
    source = tmp_path_factory.mktemp("source")
    for name in ("adire_assets", "configs", "triton_models"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(output), str(source)], check=True)
    [built] = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel, and links to the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(CODE_OF_A_CHECKOUT) and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    return python


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.full
def test_a_project_begins_from_the_wheel_alone(
    python: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    def run(*command: str, cwd: Path) -> str:
        done = subprocess.run(
            [*command], cwd=cwd, capture_output=True, text=True, env=clean_environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    adire = str(python.with_name("adire"))
    run(adire, "init", "cloth house", cwd=tmp_path)
    project = tmp_path / "cloth house"
    written = {path.relative_to(project).as_posix() for path in files_below(project)}
    assert written == {*project_files(), ".dvc/config", ".dvc/.gitignore"}
    first = project / "configs" / "models" / "indigo_sd15.yaml"
    text = first.read_text().replace("enabled: false", "enabled: true")
    first.with_name("silk.yaml").write_text(text)
    status = run(adire, "status", cwd=project)
    assert "silk: nothing is live on local" in status
    assert "indigo_sd15: disabled" in status
    package, backend, keys = json.loads(run(str(python), "-c", BACKEND, cwd=project))
    assert Path(package).is_relative_to(python.parents[1])
    assert len(backend) == 64
    assert "silk/deployed_model" in keys


def test_the_wheel_holds_what_the_package_reads(wheel: Path, source: Path) -> None:
    """Every file of the package, and what `adire init` writes, as it is in the repository."""
    package = files_below(source / "adire_assets")
    files = {path.relative_to(source).as_posix(): path for path in package}
    files |= {f"adire_assets/project_files/{name}": path for name, path in project_files().items()}
    assert len(files) > 200
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        assert not [name for name in files if name not in held]
        assert not [name for name, path in files.items() if archive.read(name) != path.read_bytes()]
        assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in held}


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "git and an environment"])
def test_init_writes_a_whole_project(there: str, tmp_path: Path) -> None:
    place = tmp_path / "new" / "house"
    if there != "nothing":
        place.mkdir(parents=True)
    if there == "git and an environment":
        for name in (".git", ".venv"):
            (place / name).mkdir()
    begin(place)
    for name, source in project_files().items():
        if name != "dvc.yaml":
            assert (place / name).read_bytes() == source.read_bytes()
    assert "metrics/indigo_sd15.json" in (place / "dvc.yaml").read_text()
    assert not [path for path in place.iterdir() if path.name.startswith(".adire-init")]


@pytest.mark.parametrize(
    "held", ["configs/models/mine.yaml", "notes.txt", ".gitignore", ".git/HEAD"]
)
def test_init_overwrites_nothing(held: str, tmp_path: Path) -> None:
    (tmp_path / held).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / held).write_text("mine")
    if held == ".git/HEAD":
        begin(tmp_path)
    with pytest.raises(UserError, match="is not empty"):
        begin(tmp_path)
    assert (tmp_path / held).read_text() == "mine"


@pytest.mark.parametrize("there", [False, True])
def test_an_init_that_fails_leaves_nothing(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "house"
    if there:
        place.mkdir()
    files = project_files()
    name = list(files)[3]
    files[name] = tmp_path / "gone"
    monkeypatch.setattr("adire_assets.ops.new_project.project_files", lambda: files)
    with pytest.raises(OSError, match="gone"):
        begin(place)
    assert not (list(place.iterdir()) if there else place.exists())
