"""A release made again from its manifest: with a real training, a real DVC remote and real gc."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from adire_assets.core import lineage, readers
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, read_json, write_json
from adire_assets.embedded.cloth.sample_images import draw_sample_data
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.answers import save_png
from adire_assets.families.training.launch import launcher
from adire_assets.ops.gc import collect_garbage
from adire_assets.ops.reproduce import Reproduction, reproduce
from adire_assets.serving import release
from tests.support import tiny
from tests.support.garbage import discard
from tests.support.trained_release import CONFIG, MODEL, THREADS, bring_out, keep, pin

ROOT = Path(__file__).parents[2]
[ADAPTER] = FAMILY.adapter_files


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with release 1, whose data is in a DVC remote and nowhere else."""
    root = tmp_path_factory.mktemp("template")
    project = Project(root, root / ".adire")
    (root / "configs" / "models").mkdir(parents=True)
    project.model_file(MODEL).write_text(CONFIG)
    shutil.copy(ROOT / "configs" / "fleet.yaml", root / "configs")
    shutil.copytree(ROOT / "triton_models", root / "triton_models")
    tiny.make_random_base(root / "base_models" / "random")
    draw_sample_data(root / "data" / MODEL, count=24, seed=1, resolution=64)
    (root / "data" / "other").mkdir()
    (root / "data" / "other" / "x.png").write_text("of another model")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ADIRE_")]:
            patch.delenv(name)
        for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
            patch.setenv(name, str(root / name))
        patch.setenv("DVC_NO_ANALYTICS", "1")
        pin(project, root / "remote")
        with pytest.MonkeyPatch.context() as inner:
            inner.setenv("ADIRE_THREADS", str(THREADS))
            bring_out(project)
        shutil.rmtree(root / "data")
        shutil.rmtree(root / ".dvc" / "cache")
        yield project


@pytest.fixture
def project(template: Project, tmp_path: Path) -> Project:
    """A copy of its own for each test; DVC's remote is one for all."""
    root = tmp_path / "project"
    shutil.copytree(template.root, root, symlinks=True, ignore=shutil.ignore_patterns("remote"))
    return Project(root, root / ".adire")


def adapter_of(project: Project, number: int = 1) -> Artifact:
    return Store(project).recall(release.read_record(project, MODEL, number).adapter)


def digest_of(project: Project) -> str:
    return adapter_of(project).manifest["files"][ADAPTER]


def change(path: Path, edit: Any) -> None:
    path.chmod(0o644)
    manifest = read_json(path)
    edit(manifest)
    write_json(path, manifest)


def made(project: Project, what: str = f"{MODEL}@1") -> tuple[Reproduction, list[str]]:
    lines: list[str] = []
    return reproduce(project, what, lambda message, **_: lines.append(message)), lines


def files_below(*folders: Path) -> dict[str, tuple]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
        for folder in folders
        for path in folder.rglob("*")
    }


def start(project: Project, package: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "adire_assets.cli", "reproduce", f"{MODEL}@1"],
        cwd=package,
        env={
            **os.environ,
            "PYTHONPATH": str(package),
            "ADIRE_PROJECT": str(project.root),
            "ADIRE_HOME": str(project.home),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(project: Project) -> list[psutil.Process]:
    home = str(project.home)
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if any(home in word for word in p.info["cmdline"] or [])]


# --- equal -----------------------------------------------------------------------------------


def test_the_recorded_sources_train_again_whatever_the_code_of_today_is(
    project: Project, tmp_path: Path
) -> None:
    package = tmp_path / "today"
    shutil.copytree(ROOT / "adire_assets", package / "adire_assets")
    for name in ("families/diffusion/training/lora.py", "core/store.py"):
        with (package / "adire_assets" / name).open("a") as file:
            file.write("\nREACHED = 1\n")
    with (package / "adire_assets" / "families" / "diffusion" / "training" / "lora.py").open(
        "a"
    ) as file:
        file.write("\ndef train(**_): raise RuntimeError('the code of today')\n")
    before = files_below(project.home / "store", project.root / "base_models")
    run = start(project, package)
    printed = run.communicate(timeout=100)[0].splitlines()
    assert run.returncode == 0, printed
    assert printed[-1] == f"reproduce: {MODEL}@1 equal sha256={digest_of(project)}"
    assert any("step 4/4 loss" in line for line in printed)
    assert files_below(project.home / "store", project.root / "base_models") == before
    assert not list((project.home / "work").iterdir())


def test_no_path_of_this_machine_stands_in_a_record_or_manifest(template: Project) -> None:
    files = [*template.home.rglob("*.json")]
    assert {"1.json", "manifest.json"} <= {file.name for file in files}
    assert not [file for file in files if str(template.root) in file.read_text()]


def test_an_image_leads_to_its_release_when_only_manifests_and_dvc_are_left(
    project: Project, tmp_path: Path
) -> None:
    image = tmp_path / "out.png"
    record = release.read_record(project, MODEL, 1)
    facts = {**record.provenance, "release": 1, "request": {"prompt": "cloth", "seed": 1}}
    save_png(np.zeros((64, 64, 3), np.uint8), image, facts)
    supersede(project)
    list(collect_garbage(project, keep=1, dry_run=False))
    assert not Store(project).holds(adapter_of(project))
    kinds = ("dataset", "lora_weights", "base_model", "triton_repository")
    assert all(len(Store(project).artifacts(MODEL, kind)) == 1 for kind in kinds)
    result, lines = made(project, str(image))
    assert result.sentence() == f"reproduce: {MODEL}@1 equal sha256={digest_of(project)}"
    assert any("gone from the store" in line for line in lines)
    assert not (project.root / "data").exists()
    assert not (project.root / ".dvc" / "cache").exists()
    assert not list((project.home / "work").iterdir())


def supersede(project: Project) -> None:
    """Release 2 and a newer artifact of each kind, so that nothing needs those of release 1."""

    def newer(kind: str) -> Artifact:
        artifact = (
            Store(project)
            .build(
                Recipe(kind, MODEL, inputs={"number": "2"}),
                lambda folder: write_json(folder / "nothing.json", {}),
            )
            .artifact
        )
        created = {"created": "2999-01-01T00:00:00+00:00"}
        change(artifact.path / "manifest.json", lambda manifest: manifest.update(created))
        return artifact

    newer("dataset")
    keep(project, 2, newer("triton_repository"), newer("lora_weights"), newer("base_model"))


# --- different, or refused -------------------------------------------------------------------


def test_other_hyperparameters_come_out_different(project: Project) -> None:
    def edit(manifest: dict) -> None:
        manifest["job"]["arguments"]["training"]["learning_rate"] = 0.011

    change(adapter_of(project).path / "manifest.json", edit)
    result, _ = made(project)
    told = result.sentence()
    assert told.startswith(f"reproduce: {MODEL}@1 different: loss.csv is ")
    assert f"{ADAPTER} is {result.sha256[:12]} and was {digest_of(project)[:12]}" in told


@pytest.mark.parametrize("what", ["manifest", "config", "source"])
def test_a_recipe_that_was_changed_is_refused(project: Project, what: str) -> None:
    folder = adapter_of(project).path
    if what == "manifest":
        change(folder / "manifest.json", lambda m: m["recipe"]["config"].update(rank=3))
    elif what == "config":
        change(folder / "recipe" / "config.json", lambda config: config.update(rank=3))
    else:
        [source] = (folder / "recipe" / "sources").glob("*.lora.py")
        source.chmod(0o644)
        source.write_text(source.read_text() + "\n")
    with pytest.raises(UserError, match=r"was changed: its recipe|is not what was recorded"):
        made(project)


def test_other_library_versions_are_refused_with_the_command_that_mends_it(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_then, peft_then = lineage.installed("torch"), lineage.installed("peft")
    assert lineage.installed("bitsandbytes") == lineage.ABSENT  # so the training did without
    for name in ("torch", "peft", "bitsandbytes"):
        folder = tmp_path / "newer" / f"{name}-9.9.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(tmp_path / "newer")
    lineage.clear_caches()
    try:
        with pytest.raises(UserError) as refused:
            made(project)
    finally:
        monkeypatch.undo()
        lineage.clear_caches()
    told = str(refused.value)
    assert f"made with peft {peft_then} (here 9.9), torch {torch_then} (here 9.9); " in told
    assert f"`pip install peft=={peft_then} torch=={torch_then}" in told
    assert "bitsandbytes" not in told
    label = torch_then.partition("+")[2]
    assert not label or f"https://download.pytorch.org/whl/{label}`" in told


def test_another_kind_of_machine_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(UserError, match=r"of type \w+ and this one is riscv64"):
        made(project)


def test_a_release_of_a_gpu_is_refused_without_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def write(folder: Path) -> dict[str, Any]:
        (folder / "adapter").mkdir()
        (folder / ADAPTER).write_bytes(b"weights")
        (folder / "adapter" / ADAPTER).write_bytes(b"weights")
        return {"job": {}}

    recipe = Recipe("lora_weights", MODEL, environment={"device": "cuda"})
    adapter = Store(project).build(recipe, write).artifact
    keep(project, 2, adapter, adapter, adapter)
    with pytest.raises(UserError, match="made on a GPU and there is none here"):
        made(project, f"{MODEL}@2")


def test_what_was_made_before_all_was_recorded_is_refused(project: Project) -> None:
    change(adapter_of(project).path / "manifest.json", lambda manifest: manifest.pop("job"))
    with pytest.raises(UserError, match="before jobs and all sources were recorded"):
        made(project)


def test_a_base_model_that_is_gone_and_replaced_is_refused(project: Project) -> None:
    discard(Store(project), Store(project).artifacts(MODEL, "base_model")[0])
    path = project.root / "base_models" / "random" / "model_index.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="is other weights now"):
        made(project)


def test_data_that_dvc_no_longer_has_is_told(project: Project) -> None:
    discard(Store(project), Store(project).artifacts(MODEL, "dataset")[0])
    config = project.root / ".dvc" / "config"
    config.write_text(config.read_text().replace("remote\n", "elsewhere\n"))
    with pytest.raises(UserError, match=r"neither in DVC's cache nor in a remote \(storage\)"):
        made(project)
    assert not list((project.home / "work").iterdir())


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (MODEL, "neither a release, such as"),
        (f"{MODEL}@7", "there is no release 7 of cloth; releases here: 1"),
        ("bare.png", "carries no provenance"),
        ("half.png", "its provenance lacks 'adapter_hash'"),
        ("other.png", "is of another release 1"),
    ],
)
def test_what_names_no_release_of_this_project_is_refused(
    project: Project, tmp_path: Path, what: str, told: str
) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "bare.png")
    facts: dict[str, Any] = {"model": MODEL, "release": 1}
    save_png(image, tmp_path / "half.png", facts)
    save_png(image, tmp_path / "other.png", {**facts, "adapter_hash": "0" * 64})
    with pytest.raises(UserError, match=told):
        made(project, str(tmp_path / what) if what.endswith(".png") else what)


def test_a_dataset_that_comes_out_otherwise_is_told(project: Project) -> None:
    [dataset] = Store(project).artifacts(MODEL, "dataset")

    def edit(manifest: dict) -> None:
        manifest["job"]["arguments"]["config"]["held_out_fraction"] = 0.3

    change(dataset.path / "manifest.json", edit)
    discard(Store(project), dataset)
    with pytest.raises(UserError, match=r"comes out otherwise than the one of then: .*jsonl is"):
        made(project)


def test_a_release_that_serves_another_file_is_refused(project: Project) -> None:
    [content] = Store(project).artifacts(MODEL, "triton_repository")
    served = {f"adapter/{ADAPTER}": "0" * 64}
    change(content.path / "manifest.json", lambda manifest: manifest["files"].update(served))
    with pytest.raises(UserError, match="release 1 of cloth serves the adapter file 0000"):
        made(project)


# --- interrupts ------------------------------------------------------------------------------


def behind_a_launcher(project: Project) -> None:
    """The adapter's recorded job, as if two processes had carried it out."""

    def edit(manifest: dict) -> None:
        manifest["job"]["launcher"] = list(launcher("cpu", {"num_processes": 2})[1:])
        manifest["job"]["arguments"]["training"]["num_processes"] = 2

    change(adapter_of(project).path / "manifest.json", edit)


def test_an_interrupt_leaves_no_process_and_no_folder(project: Project) -> None:
    [dataset] = Store(project).artifacts(MODEL, "dataset")
    behind_a_launcher(project)

    def interrupt(message: str, **_: float) -> None:
        if "loading the base model" in message:
            assert len(processes_of(project)) == 3
            with readers.reading(), readers.exclusive(project.home, [dataset.name]) as free:
                assert not free  # nobody may delete it now
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(project, f"{MODEL}@1", interrupt)
    assert not processes_of(project)
    assert not list((project.home / "work").iterdir())


def test_a_kill_leaves_no_process(project: Project) -> None:
    behind_a_launcher(project)
    run = start(project, ROOT)
    assert run.stdout
    assert any("loading the base model" in line for line in run.stdout)
    children = processes_of(project)
    assert len(children) == 3
    run.kill()
    run.communicate(timeout=30)
    assert not psutil.wait_procs(children, timeout=30)[1]
