"""A project of the toy family in a temporary folder, and `adire` as its user runs it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from adire_assets.core.project import Project
from tests.support.fleets import make_fleet

ROOT = Path(__file__).parents[2]
MODEL = "sayings"
# Keys, metrics and words of diffusion, none of which may be told to who has texts.
FOREIGN = r"diffus|\bimages?\b|pictures?|clip_s|\bCLIP\b|\bKID\b|nsfw|guidance|inference_steps"
SUBJECTS = ("the dyer", "the weaver", "her aunt", "the old man", "my sister", "the girl")
VERBS = ("ties", "folds", "paints", "stitches", "washes", "carries")
CLOTHS = ("indigo cloth", "a pale cloth", "raffia knots", "cassava paste", "the wet yarn")
TEXTS = [f"{who} {does} {what} at dawn" for who in SUBJECTS for does in VERBS for what in CLOTHS]
CONFIG: dict[str, Any] = {
    "family": "ngram",
    "require_clean_commit": False,
    "data": {"path": f"data/{MODEL}"},
    "base_model": {"source": "base.txt"},
    "evaluation": {
        "judge": {"source": "judge.txt"},
        "gates": {"human_minimum_pairs": 5, "champion": {"margins": {"perplexity": 1.0}}},
    },
}
ROLLOUT = {
    "strategy": "blue_green",
    "minimum_seconds": 0.0,
    "error_rate_maximum": 0.45,
    "latency_increase_maximum": None,
    "latency_maximum_seconds": 30.0,
    "promotion_quantiles": ["p50"],
    "quality_drop_maximum": 0.5,
}
INSTALLED = {
    "METADATA": "Metadata-Version: 2.1\nName: toy-family\nVersion: 1\n",
    "entry_points.txt": "[adire_assets.families]\nngram = toy_family:FAMILY\n",
}


@dataclass
class Toy:
    root: Path

    @property
    def project(self) -> Project:
        return Project(self.root, self.root / ".adire")

    def adire(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        strangers = ("ADIRE_", "DAGSTER_", "MLFLOW_", "PYTHON")
        kept = {name: v for name, v in os.environ.items() if not name.startswith(strangers)}
        done = subprocess.run(
            [sys.executable, "-m", "adire_assets.cli", *arguments],
            cwd=self.root,
            env={**kept, "PYTHONPATH": str(self.root), "ADIRE_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done

    def configure(self, **sections: Any) -> None:
        """Write the model's YAML with these sections instead of CONFIG's."""
        write_yaml(self.root / "configs" / "models" / f"{MODEL}.yaml", CONFIG | sections)

    def data(self, *texts: str) -> None:
        """Put these texts, one a line, under DVC."""
        folder = self.root / "data" / MODEL
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "texts.txt").write_text("\n".join(texts))
        command = (sys.executable, "-m", "dvc", "add", "-q", "data")
        subprocess.run(command, cwd=self.root, check=True)


def write_yaml(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        YAML().dump(content, file)


@contextmanager
def toy_project(root: Path, *, without: tuple[str, ...] = ()) -> Iterator[Toy]:
    """The project with its servers up.

    The family and a copy of the package, `without` these folders of it, lie in the project, where
    every process of it looks for modules.
    """
    toy = Toy(root)
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tests" / "support" / "toy_family", root / "toy_family", ignore=hidden)
    shutil.copytree(ROOT / "adire_assets", root / "adire_assets", ignore=hidden)
    for folder in without:
        shutil.rmtree(root / "adire_assets" / folder)
    files = {f"toy_family-1.dist-info/{name}": text for name, text in INSTALLED.items()}
    files |= {"base.txt": "a red house\na blue boat\n", "judge.txt": "\n".join(TEXTS)}
    files |= {"dagster_defs.py": (ROOT / "dagster_defs.py").read_text()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    toy.configure()
    fleet = make_fleet().model_dump(mode="json", exclude_none=True)
    fleet["targets"]["local"]["rollout"] = ROLLOUT
    write_yaml(root / "configs" / "fleet.yaml", fleet)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=root, check=True)
    toy.data(*TEXTS)
    try:
        toy.adire("up", "--only", "serving")
        yield toy
    finally:
        toy.adire("down", check=False)
