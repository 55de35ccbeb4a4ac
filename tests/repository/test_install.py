"""What the pinned libraries must do together, and what the definitions must not load."""

import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "peft", "mlflow", "dagster_mlflow", "dvc", "numpy")


def test_dagster_parses_a_selection_string() -> None:
    """Fails with the antlr4 runtime that dvc's own hydra pins."""
    selection = dg.AssetSelection.from_string('key:"indigo/lora_weights"+')
    assert "lora_weights" in str(selection)


def test_dvc_runs_a_stage(tmp_path: Path) -> None:
    """dvc.yaml goes through hydra and omegaconf, which must accept the newer antlr4 runtime."""
    (tmp_path / "dvc.yaml").write_text(
        "vars: [{word: adire}]\nstages: {say: {cmd: 'echo ${word} > out.txt', outs: [out.txt]}}\n"
    )
    for command in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True)
    assert (tmp_path / "out.txt").read_text() == "adire\n"


def test_the_definitions_load_nothing_heavy() -> None:
    code = f"import sys, dagster_defs; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_only_the_shell_imports_dagster() -> None:
    core = [
        path
        for path in (ROOT / "adire_assets").rglob("*.py")
        if "defs" not in path.relative_to(ROOT).parts
    ]
    assert len(core) > 20
    for path in core:
        lines = path.read_text().splitlines()
        assert not [line for line in lines if line.startswith(("import dagster", "from dagster"))]


def test_the_shell_stays_thin() -> None:
    assert len((ROOT / "dagster_defs.py").read_text().splitlines()) <= 50


PYTHON = """#!/bin/sh
# A Python {version} that makes environments of itself; what pip is told goes into pip.log.
case "$*" in
  "-m venv .venv")
    mkdir -p .venv/bin && cp "$0" .venv/bin/python
    echo "command = x -m venv $PWD/.venv" > .venv/pyvenv.cfg ;;
  "-m pip"*) echo "$*" >> pip.log; {pip} ;;
  *) exec "{real}" -c "import os, sys
sys.version_info, sys.prefix = {version}, os.getcwd() + '/.venv'
$2" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile in a folder of its own, below one with a blank, a quote and an accent."""
    root = tmp_path / "it's a caf\u00e9"
    root.mkdir()
    shutil.copy(ROOT / "Makefile", root)
    for name in ("pyproject.toml", "requirements.lock"):
        (root / name).touch()
    return root


def python(root: Path, version: tuple[int, int], pip: str = "true") -> str:
    path = root.parent / f"python{version[0]}.{version[1]}"
    path.write_text(PYTHON.format(version=version, real=sys.executable, pip=pip))
    path.chmod(0o755)
    return str(path)


def install(root: Path, python: str) -> "subprocess.CompletedProcess[str]":
    command = ["make", ".venv/.installed", f"PYTHON={python}"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_another_python_is_refused_and_leaves_nothing(checkout: Path) -> None:
    done = install(checkout, python(checkout, (3, 12)))
    assert done.returncode and "Python 3.11 is needed, not 3.12" in done.stderr
    assert not (checkout / ".venv").exists()
    assert install(checkout, python(checkout, (3, 11))).returncode == 0


@pytest.mark.parametrize("spoiled", ["version", "half made", "elsewhere", "interrupted"])
def test_an_environment_that_is_no_good_is_made_anew(checkout: Path, spoiled: str) -> None:
    good = python(checkout, (3, 11))
    venv = checkout / ".venv"
    if spoiled == "interrupted":
        assert install(checkout, python(checkout, (3, 11), pip="exit 1")).returncode
        assert not (venv / ".installed").exists()
        shutil.rmtree(venv)
        good = python(checkout, (3, 11))
    assert install(checkout, good).returncode == 0
    (venv / "old").touch()
    if spoiled == "version":
        shutil.copy(python(checkout, (3, 12)), venv / "bin" / "python")
    elif spoiled == "half made":
        (venv / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    elif spoiled == "elsewhere":
        (venv / "pyvenv.cfg").write_text("command = x -m venv /elsewhere/.venv\n")
    done = install(checkout, good)
    assert done.returncode == 0, done.stderr
    assert (venv / ".installed").exists()
    assert (venv / "old").exists() == (spoiled == "interrupted")


def test_a_sound_environment_is_left_as_it_is(checkout: Path) -> None:
    good = python(checkout, (3, 11))
    install(checkout, good)
    told = (checkout / "pip.log").read_text()
    assert "up to date" in install(checkout, good).stdout
    assert (checkout / "pip.log").read_text() == told
