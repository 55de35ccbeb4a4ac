"""A home that earlier code made is read as it is: tests/homes/README.md says what is in it.

The tests follow one home in order, through the commands that its owner gives after an upgrade.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adire_assets.core import lineage
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.families.diffusion.answers import read_provenance
from adire_assets.ops import operations
from adire_assets.serving import release
from tests.support.ports import free_ports

ROOT = Path(__file__).parents[2]
HOME = ROOT / "tests" / "homes" / "before_rooms.tar.xz"
TOLERANCE = 2  # levels of 255, between two machines


@dataclass
class Owner:
    """The project's owner, who gives commands; `said` are the answers to the first of them."""

    project: Project
    environment: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)

    def adire(self, *words: str, status: int = 0) -> str:
        """What a command says; with a `status`, what it refuses with."""
        done = subprocess.run(
            [sys.executable, "-m", "adire_assets.cli", *words],
            cwd=self.project.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stderr if status else done.stdout


@pytest.fixture(scope="module")
def owner(
    tmp_path_factory: pytest.TempPathFactory, clean_environment: dict[str, str]
) -> Iterator[Owner]:
    """After what docs/upgrading.md asks for."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(HOME) as archive:
        archive.extractall(folder, filter="data")
    root = folder / "project"
    ports = iter(free_ports(9))
    fleet = root / "configs" / "fleet.yaml"
    fleet.write_text(re.sub(r"(port: )\d+", lambda m: f"{m[1]}{next(ports)}", fleet.read_text()))
    shutil.copy(ROOT / "dagster_defs.py", root)
    (root / "triton_models").symlink_to(ROOT / "triton_models")
    own = {"ADIRE_PROJECT": str(root), "ADIRE_THREADS": "1", "PYTHONPATH": str(ROOT)}
    owner = Owner(Project(root, root / ".adire"), clean_environment | own)
    owner.said["restore"] = owner.adire("restore", str(root / "backup"))
    # The slots stand as they were left, as they do in a home that stays where it is.
    shutil.copytree(root / "slots", owner.project.home / "fleet" / "slots")
    owner.said["materialize"] = owner.adire("materialize", "indigo", status=1)
    path = owner.project.model_file("indigo")
    path.write_text(f"family: diffusion\n{path.read_text()}")
    try:
        yield owner
    finally:
        owner.adire("down")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, int)


def test_the_backup_of_then_is_restored_and_a_yaml_without_a_family_refused(owner: Owner) -> None:
    live = "release 2 of indigo is live on local; `adire up` serves it\n"
    assert live in owner.said["restore"]
    sentence = "indigo.yaml:1: family: this key is missing; installed families: "
    assert sentence in owner.said["materialize"]


def test_what_is_live_stays_live_and_status_says_what_is_made_again(owner: Owner) -> None:
    kept = owner.project.home / "deployments" / "local" / "indigo.json"
    since = json.loads(kept.read_text())["since"]
    said = owner.adire("status")
    assert f"indigo: release 2 is live on local since {since}\n" in said
    assert "  why: passed all 7 gates: " in said
    assert "  approved: release 2 by ada at " in said and ": rounder rings\n" in said
    assert "cannot tell" not in said
    stale = set(re.findall("  stale: (.*)", said))
    code = {"the code that makes datasets", "the training code", "the evaluation code"}
    assert stale >= {f"{what} changed" for what in code}
    told = (ROOT / "docs" / "upgrading.md").read_text()
    assert "the next materialization makes dataset, adapter and evaluation again" in told
    for line in stale:  # keys whose defaults are others now
        assert all(
            f"`{key}`" in told for key in line.partition("settings changed: ")[2].split(", ") if key
        )


def test_an_image_of_then_is_traced(owner: Owner) -> None:
    image = owner.project.root / "served.png"
    facts = read_provenance(image)
    said = owner.adire("trace", str(image))
    assert ": release 2 of indigo\n" in said
    for fact in ("dvc_hash", "adapter_hash", "adapter_recipe_key", "mlflow_run_id"):
        assert facts[fact] in said
    assert said.endswith("this project's record of the release agrees\n")


def test_releases_of_then_are_verified_reported_exported_and_kept(
    owner: Owner, tmp_path: Path
) -> None:
    store = Store(owner.project)
    for artifact in store.artifacts():
        store.verify(artifact)
    page = tmp_path / "1.html"
    owner.adire("report", "indigo@1", "--output", str(page))
    shown = page.read_text()
    assert "release 1" in shown and "clip_s" in shown and "<img" in shown
    owner.adire("export", "indigo@1", "--out", str(tmp_path / "lora.safetensors"))
    assert owner.adire("gc", "--dry-run").endswith("0.0 MB would be freed\n")


@pytest.mark.full
def test_a_release_is_made_again_from_its_recorded_sources(owner: Owner) -> None:
    then = Store(owner.project).recall(release.read_record(owner.project, "indigo", 1).adapter)
    if then.manifest["hardware"]["cpu_features"] != lineage.hardware()["cpu_features"]:
        pytest.skip("another processor gives other bits")
    assert "reproduce: indigo@1 equal sha256=" in owner.adire("reproduce", "indigo@1")


def test_what_is_live_answers_as_it_did(owner: Owner, tmp_path: Path) -> None:
    owner.adire("up", "--only", "serving")
    assert "differs: " not in owner.adire("status")
    then, now = owner.project.root / "served.png", tmp_path / "now.png"
    asked = read_provenance(then)["request"]
    seed = str(asked["seed"])
    said = owner.adire("generate", asked["prompt"], "--seed", seed, "--out", str(now))
    assert said == f"{now}: release 2, seed {seed}\n"
    assert pixels(then).std() > 5
    assert np.abs(pixels(now) - pixels(then)).max() <= TOLERANCE
    assert owner.adire("trace", str(now)).endswith("record of the release agrees\n")


def test_the_demo_ends_with_an_answer_of_what_is_live(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the sample data and the trainings before it, which other tests have."""
    for name, value in owner.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(operations, "pull", lambda *_: None)
    asked: list[str] = []
    said: list[str] = []
    operations.demo(owner.project, "indigo", lambda _, *of: asked.append(of), said.append)
    assert asked == [("indigo", None)]
    file = owner.project.home / "demo.png"
    assert re.fullmatch(rf"demo: OK release=2 image={file} CLIP-S=\d\.\d+", said[-1])
    assert any(line.endswith("contact_sheet.png") for line in said)
    assert read_provenance(file)["release"] == 2


def test_a_rollback_goes_to_the_release_before(owner: Owner, tmp_path: Path) -> None:
    said = owner.adire("rollback", "indigo", "--reason", "too pale")
    assert "release 1 of indigo is live" in said
    said = owner.adire("generate", "indigo circles", "--out", str(tmp_path / "now.png"))
    assert "now.png: release 1, " in said
    said = owner.adire("status")
    assert "indigo: release 1 is live on local since " in said
    assert "quarantined: release 2: too pale" in said


@pytest.mark.full
def test_golden_images_of_then_are_drawn_again(owner: Owner) -> None:
    said = owner.adire("golden", "indigo@1")
    assert "golden: indigo@1 exact: " in said or "golden: indigo@1 within tolerance: " in said


@pytest.mark.full
def test_the_next_materialization_makes_a_release_anew(owner: Owner) -> None:
    owner.adire("up", "--only", "serving")
    path = owner.project.model_file("indigo")
    path.write_text(path.read_text().replace("seed: 2", "seed: 3"))  # another adapter than those
    said = owner.adire("materialize", "indigo")
    made = dict(re.findall(r"indigo/(\w+): (made|reused)", said))
    assert {made[name] for name in ("dataset", "lora_weights", "evaluation_report")} == {"made"}
    assert "against the champion clip_s " in said
    assert "release 3 of indigo is live on local" in said
    assert "stale: " not in owner.adire("status")
