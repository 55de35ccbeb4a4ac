"""A copy of the package without the diffusion family and the embedded base: what is left runs."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "adire_assets"
GONE = ("families/diffusion", "embedded")
WORDS = re.compile(r"diffusi|Stable|clip_s|CLIP|KID|UNet|guidance|num_inference|png|PNG|pixel")
IMPORT_ALL = """
import importlib, pkgutil, re, sys
import adire_assets
assert adire_assets.__path__ == [sys.argv[1]], adire_assets.__path__
def fail(name): raise
found = [one.name for one in pkgutil.walk_packages(adire_assets.__path__, "adire_assets.", fail)]
computes = re.compile("[.](training|steps|generation|write_answers)([.]|$)")
in_children = [name for name in found if computes.search(name)]
for name in found:
    if not name.endswith("__main__") and name not in in_children:
        importlib.import_module(name)
heavy = [name for name in ("torch", "diffusers", "transformers", "PIL") if name in sys.modules]
print(heavy)
for name in in_children:
    importlib.import_module(name)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the smaller package."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in GONE:
        shutil.rmtree(root / PACKAGE.name / folder)
    return root


def run(copy: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy), "ADIRE_PROJECT": str(copy)}
    done = subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_that_is_left_can_be_imported(copy: Path) -> None:
    assert run(copy, "-c", IMPORT_ALL, str(copy / PACKAGE.name)) == "[]\n"


def test_the_command_line_has_no_command_of_what_is_gone(copy: Path) -> None:
    told = run(copy, "-m", "adire_assets.cli", "--help")
    assert "materialize" in told
    for word in ("base-model", "sample-data", "diffusion", "Stable"):
        assert word not in told


def test_no_text_of_what_is_left_is_about_diffusion(copy: Path) -> None:
    """Keys, names of metrics and messages; not docstrings, which may have an example."""
    found = []
    for file in sorted((copy / PACKAGE.name).rglob("*.py")):
        if file.name == "embedded_commands.py":  # not there for who has no embedded base
            continue
        tree = ast.parse(file.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            text = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in docstrings and WORDS.search(text):
                found.append(f"{file.name}:{node.lineno}: {text}")
    assert not found
