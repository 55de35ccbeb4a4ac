"""Recipe keys change with what matters and with nothing else."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adire_assets.core import devices, lineage
from adire_assets.core.lineage import Recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package whose files a test may edit; code hashes come from a fresh process."""
    shutil.copytree(ROOT / "adire_assets", tmp_path / "adire_assets")
    return tmp_path / "adire_assets"


def code_hash(package: Path, module: str) -> str:
    return said_by(package, f"code_hash(({module!r},))")


def said_by(package: Path, expression: str) -> str:
    """What lineage says in a process that runs this copy."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from adire_assets.core import lineage; print(lineage.{expression})",
        ],
        cwd=package.parent,
        env={"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("families/diffusion/training/lora.py", "import", "# a comment\nimport", False),
        ("families/diffusion/training/lora.py", '"""', '"""Other words. ', False),
        ("families/diffusion/training/lora.py", "import", "REACHED = 1\nimport", True),
        (
            "families/training/checkpoint.py",
            "import",
            "REACHED = 1\nimport",
            True,
        ),  # imported by lora
        ("gates/verdict.py", "from", "REACHED = 1\nfrom", False),
        ("config/yaml_file.py", "import", "REACHED = 1\nimport", False),  # values are in the key
        ("families/diffusion/training/settings.py", "from", "REACHED = 1\nfrom", False),
    ],
)
def test_only_code_that_the_step_runs_counts(
    package: Path, file: str, old: str, new: str, changes: bool
) -> None:
    before = code_hash(package, "adire_assets.families.diffusion.training.lora")
    path = package / file
    text = path.read_text()
    where = text.index(f"\n{old}") + 1 if old in ("import", "from") else text.index(old)
    path.write_text(text[:where] + new + text[where + len(old) :])
    assert (
        code_hash(package, "adire_assets.families.diffusion.training.lora") != before
    ) is changes


def test_code_without_a_history_is_named_by_all_of_its_sources(package: Path) -> None:
    def named() -> str:
        return said_by(package, f"code_identity(__import__('pathlib').Path({str(package)!r}))")

    def edit(file: str, old: str, new: str) -> None:
        path = package / file
        path.write_text(path.read_text().replace(old, new, 1))

    names = [named()]
    assert "'build': 'tree-" in names[0]
    edit("families/training/loop.py", "import", "# a comment\nimport")
    assert named() == names[0]
    for file in ("config/model.py", "serving/fleet/parity.py"):
        edit(file, "\nfrom", "\nREACHED = 1\nfrom")
        names.append(named())
    (package / "another.py").write_text("")
    names.append(named())
    assert len({*names}) == len(names)


def test_key_depends_on_every_part_and_on_no_order() -> None:
    recipe = Recipe("kind", "cloth", inputs={"a": "1", "b": "2"}, config={"x": 1, "y": 2})
    same = Recipe("kind", "cloth", inputs={"b": "2", "a": "1"}, config={"y": 2, "x": 1})
    others = [
        Recipe("other", "cloth", inputs={"a": "1", "b": "2"}, config={"x": 1, "y": 2}),
        Recipe("kind", "silk", inputs={"a": "1", "b": "2"}, config={"x": 1, "y": 2}),
        Recipe("kind", "cloth", inputs={"a": "1", "b": "3"}, config={"x": 1, "y": 2}),
        Recipe("kind", "cloth", inputs={"a": "1", "b": "2"}, config={"x": 1, "y": 3}),
        Recipe(
            "kind",
            "cloth",
            inputs={"a": "1", "b": "2"},
            config={"x": 1, "y": 2},
            environment={"torch": "9"},
        ),
    ]
    assert recipe.key == same.key
    assert len({recipe.key, *(other.key for other in others)}) == 6


def test_a_new_torch_or_thread_count_is_another_environment(monkeypatch) -> None:
    before = lineage.environment("torch", device="cpu")
    monkeypatch.setenv("ADIRE_THREADS", str(lineage.threads() + 1))
    assert lineage.environment("torch", device="cpu") != before
    assert lineage.environment("torch", device="cpu")["torch"] == lineage.installed("torch")


def test_identity_is_the_commit_in_a_checkout_and_a_stamp_without_one(
    tmp_path: Path, package: Path
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def identity() -> dict[str, object]:
        said = said_by(package, f"code_identity(__import__('pathlib').Path({str(tmp_path)!r}))")
        return ast.literal_eval(said)

    build = lineage.code_identity(tmp_path)["build"]
    assert build.startswith("tree-")
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "cloth.json").write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "metrics" / "cloth.json").write_text("{}")  # what a run writes there
    assert identity() == {"commit": commit, "dirty": False}
    # The package of this process lies elsewhere, as an installed one does.
    assert lineage.code_identity(tmp_path) == {"commit": commit, "dirty": False, "build": build}
    (package / "core/errors.py").open("a").write("REACHED = 1\n")
    assert identity() == {"commit": commit, "dirty": True}
    git("archive", "--output", "export.zip", "HEAD")
    shutil.unpack_archive(tmp_path / "export.zip", tmp_path / "export")
    stamp = (tmp_path / "export" / "adire_assets" / "core" / "build_stamp.txt").read_text().strip()
    assert stamp == commit


def test_the_code_of_a_family_outside_the_package_counts(package: Path) -> None:
    """Of a package, and of a family that is a single module."""
    family = package.parent / "letters"
    family.mkdir()
    (family / "__init__.py").write_text("")
    (family / "train.py").write_text("import json\nimport yaml\nfrom letters import counting\n")
    (family / "counting.py").write_text("from . import order\nfrom .order import ORDER\n")
    (family / "order.py").write_text("ORDER = 2\n")
    (package.parent / "numerals.py").write_text("from adire_assets.core import sample\n")

    def said(expression: str) -> str:
        return said_by(package, expression)

    for module, reached in (
        ("letters.train", "letters/counting.py"),
        ("letters.train", "letters/order.py"),
        ("numerals", "numerals.py"),
    ):
        before = said(f"code_hash(({module!r},))")
        path = package.parent / reached
        path.write_text(f"# a comment\n{path.read_text()}")
        assert said(f"code_hash(({module!r},))") == before
        path.write_text(f"{path.read_text()}REACHED = 1\n")
        assert said(f"code_hash(({module!r},))") != before
    kept = said("all_sources(('letters.train',)).keys()")
    assert all(f"'{name}'" in kept for name in ("letters", "letters.counting", lineage.WORKER))
    assert said("libraries(('letters.train',))") == "('pyyaml',)"
    assert "adire_assets.core.sample" in said("sources(('numerals',)).keys()")


@pytest.mark.parametrize(
    "visible, names",
    [
        (None, ["NVIDIA H200", "NVIDIA L4"]),
        ("1", ["NVIDIA L4"]),
        ("GPU-b", ["NVIDIA L4"]),
        ("1, GPU-a1", ["NVIDIA L4", "NVIDIA H200"]),
        ("", []),
        ("-1", []),
    ],
)
def test_the_hardware_is_the_gpus_that_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    for place, (name, uuid) in enumerate([("NVIDIA H200", "GPU-a1"), ("NVIDIA L4", "GPU-b2")]):
        folder = tmp_path / f"0000:{place:02}:00.0"
        folder.mkdir()
        told = f"Model: \t\t {name}\nIRQ:   \t\t 9{place}\nGPU UUID: \t {uuid}\nBus Location: a\n"
        (folder / "information").write_text(told)
    monkeypatch.setattr(devices, "NVIDIA_GPUS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert lineage.hardware()["gpus"] == names
