"""Artifacts that gc may delete, and processes that read them meanwhile."""

import json
import subprocess
import sys
import time
from pathlib import Path

from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store
from adire_assets.ops.gc import collect_garbage

ROOT = Path(__file__).parents[2]
MODEL = "cloth"


# Each says "ready" when it has what it reads or has begun, and ends when it is told to.
READER = """
import json, sys
from pathlib import Path
from adire_assets.core import readers
from adire_assets.core.project import Project
from adire_assets.core.lineage import Recipe
from adire_assets.core.store import Store

store = Store(Project(Path(sys.argv[1]), Path(sys.argv[2])))
reference = json.loads(sys.argv[3])

def wait():
    print("ready", flush=True)
    sys.stdin.readline()

def look(folder):
    print(artifact.path.joinpath("a.txt").is_file(), flush=True)
"""
HOW_IT_READS = {
    "opened": "artifact = store.open(reference); wait(); look(artifact)",
    "recalled": "artifact = store.recall(reference); wait(); look(artifact)",
    "reused": (
        "artifact = store.build(Recipe('thing', 'cloth', inputs={'n': '0'}), None).artifact;"
        "wait(); look(artifact)"
    ),
    "while another is made of it": (
        "artifact = store.open(reference);"
        "store.build(Recipe('other', 'cloth'), lambda folder: (wait(), look(artifact))[1])"
    ),
}


def make(project: Project, count: int = 3, kind: str = "thing") -> list[Artifact]:
    """So many artifacts of a kind, the oldest first."""

    def write(folder: Path) -> None:
        (folder / "a.txt").write_text("a" * 1000)

    store = Store(project)
    made = []
    for number in range(count):
        recipe = Recipe(kind, MODEL, inputs={"n": str(number)})
        made.append(store.build(recipe, write).artifact)
        time.sleep(0.002)  # `created` is told in milliseconds
    return made


def gc(project: Project, *, dry_run: bool = False) -> list[str]:
    return list(collect_garbage(project, keep=1, dry_run=dry_run))


def limit(project: Project, **gigabytes: float) -> None:
    text = "".join(f"{name}: {value}\n" for name, value in gigabytes.items())
    (project.root / "configs" / "home.yaml").write_text(text)


def reader(project: Project, artifact: Artifact, how: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", READER + HOW_IT_READS[how]),
            *(str(project.root), str(project.home), json.dumps(artifact.reference())),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def discard(store: Store, artifact: Artifact) -> None:
    """Delete an artifact except for its manifest and recipe/, unless another process reads it."""
    for _ in store.delete_unheld(lambda: [artifact]):
        pass
