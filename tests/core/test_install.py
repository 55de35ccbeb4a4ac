"""What the pinned libraries must do together, and what the definitions must not load."""

import subprocess
import sys
from pathlib import Path

import dagster as dg

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
