"""Which versions may train, evaluate and serve together, and what is said when they may not."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adire_assets.config import gates
from adire_assets.config.model import load_model
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Store, write_json
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.gates import AllowedVersions, CompatibilityConfig
from adire_assets.gates import upgrades
from adire_assets.gates.upgrades import Software, compare, of_manifest
from adire_assets.serving.release import ReleaseRecord
from tests.support.garbage import discard

ROOT = Path(__file__).parents[2]
CPU: Software = {
    "torch": "2.13.0+cpu",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "cuda": None,
    "driver": None,
    "device": "cpu",
    "threads": "2",
}
GPU: Software = {
    **CPU,
    "torch": "2.13.0+cu128",
    "cuda": "12.8",
    "driver": "570.86.10",
    "device": "cuda",
    "threads": None,
}
CONFIG = """
data: {path: data/cloth, instance_prompt: cloth}
family: diffusion
base_model: {source: base_models/none}
evaluation:
  judge: {source: base_models/none}
  gates: {compatibility: {allow: %s}}
"""


@pytest.mark.parametrize(
    ("training", "evaluation", "serving", "allow", "refused"),
    [
        (CPU, CPU, CPU, {}, []),
        # A patch release, a build label, another device: not refused.
        (CPU, CPU, {**CPU, "diffusers": "0.42.9", "torch": "2.13.2"}, {}, []),
        (GPU, GPU, CPU, {}, []),
        (
            CPU,
            CPU,
            {**CPU, "diffusers": "0.43.0"},
            {},
            ["diffusers is 0.42.1 at training and evaluation, 0.43.0 at serving"],
        ),
        (
            {**CPU, "torch": "1.13.0", "peft": "0.20.0"},
            CPU,
            CPU,
            {},
            [
                "torch is 1.13.0 at training, 2.13.0+cpu at evaluation and serving",
                "peft is 0.20.0 at training, 0.21.2 at evaluation and serving",
            ],
        ),
        (
            GPU,
            GPU,
            {**GPU, "cuda": "13.0"},
            {},
            ["cuda is 12.8 at training and evaluation, 13.0 at serving"],
        ),
        (CPU, CPU, {**CPU, "diffusers": "0.43.0"}, {"diffusers": "*"}, []),
        (CPU, CPU, {**CPU, "diffusers": "0.43.0"}, {"diffusers": ">=0.42,<0.44"}, []),
        (
            CPU,
            CPU,
            {**CPU, "diffusers": "0.44.0"},
            {"diffusers": ">=0.42,<0.44"},
            ["diffusers is 0.44.0 at serving, allowed is >=0.42,<0.44"],
        ),
        # The permission for one package is none for another.
        (
            CPU,
            CPU,
            {**CPU, "transformers": "6.0.0"},
            {"diffusers": "*"},
            ["transformers is 5.23.0 at training and evaluation, 6.0.0 at serving"],
        ),
        (
            CPU,
            CPU,
            None,
            {"torch": "*", "transformers": "*", "peft": "*"},
            ["nothing tells which diffusers serving ran with"],
        ),
        ({**CPU, "peft": None}, CPU, CPU, {}, ["nothing tells which peft training ran with"]),
    ],
)
def test_minor_versions_must_agree_unless_they_may_differ(
    training: Software,
    evaluation: Software,
    serving: Software | None,
    allow: dict[str, str],
    refused: list[str],
) -> None:
    allowed = AllowedVersions(**allow).model_dump()
    found = compare(training, evaluation, serving, allowed)
    assert list(found.refused) == refused
    assert found.compatible is (not refused)
    assert "\n" not in found.sentence()
    assert all(text in found.sentence() for text in refused)
    assert ("evaluation.gates.compatibility.allow" in found.sentence()) is bool(refused)


def test_driver_device_and_threads_are_told_and_never_refused() -> None:
    serving = {**GPU, "driver": "580.1", "device": "cpu", "threads": "8"}
    found = compare(GPU, {**GPU, "threads": "4"}, serving, AllowedVersions().model_dump())
    assert found.compatible
    assert found.told == (
        "driver is 570.86.10 at training and evaluation, 580.1 at serving",
        "device is cuda at training and evaluation, cpu at serving",
        "threads are 4 at evaluation, 8 at serving",
    )
    assert found.told[0] in found.sentence()
    assert found.versions["cuda"] == {"training": "12.8", "evaluation": "12.8", "serving": "12.8"}


def test_cuda_and_driver_are_recorded_on_a_gpu_and_change_nothing_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_cpu = lineage.environment("torch", device="cpu")
    assert set(on_cpu) == {"torch", "device", "threads", "machine"}
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release")
    monkeypatch.setattr(lineage, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr(lineage, "cuda_version", lambda: "12.8")
    assert lineage.environment("torch", device="cpu") == on_cpu
    for device, expected in (("cuda", ("12.8", "570.86.10")), ("cpu", (None, None))):
        environment = lineage.environment("torch", device=device)
        manifest = {"recipe": {"environment": environment}, "hardware": lineage.hardware()}
        found = of_manifest(manifest)
        assert (found.get("cuda"), found.get("driver")) == expected
    monkeypatch.setattr(lineage, "NVIDIA_DRIVER", tmp_path / "none")
    assert lineage.hardware()["driver"] is None


def test_the_cuda_of_torch_is_read_without_importing_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')")
    version = tmp_path / "torch" / "version.py"
    monkeypatch.setattr(
        lineage,
        "find_spec",
        lambda name: SimpleNamespace(origin=str(tmp_path / "torch" / "__init__.py")),
    )
    for text, expected in (("cuda = '12.8'", "12.8"), ("cuda = None", None)):
        version.write_text(text)
        lineage.clear_caches()
        assert lineage.cuda_version() == expected
    monkeypatch.undo()
    lineage.clear_caches()


@pytest.mark.parametrize(
    ("allow", "sentence"),
    [
        ("{difusers: '*'}", "difusers"),
        ("{driver: '*'}", "driver"),
        ("{diffusers: newer}", "'newer' is no range of versions"),
        ("{diffusers: 0.42}", "diffusers"),
    ],
)
def test_unknown_packages_and_ranges_are_refused(tmp_path: Path, allow: str, sentence: str) -> None:
    project = Project(tmp_path, tmp_path / "home")
    (tmp_path / "configs" / "models").mkdir(parents=True)
    project.model_file("cloth").write_text(CONFIG % allow)
    with pytest.raises(UserError) as refusal:
        load_model(project, "cloth")
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_family_without_packages_is_compatible_with_itself() -> None:
    found = compare({}, {}, {"torch": "1.0"}, gates.AllowedVersions().model_dump())
    assert found.sentence() == "compatibility: training, evaluation and serving agree on cuda"


def test_a_release_is_refused_by_what_its_manifests_and_its_answers_say(tmp_path: Path) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "fleet.yaml", tmp_path / "configs")
    project = Project(tmp_path, tmp_path / "home")
    environment = lineage.environment(*FAMILY.packages, device="cpu")

    def made(kind: str, **changes: str) -> Artifact:
        recipe = Recipe(kind, "cloth", environment={**environment, **changes})
        return Store(project).build(recipe, lambda f: write_json(f / "x.json", kind)).artifact

    def record(adapter: Artifact, evaluation: Artifact) -> ReleaseRecord:
        nothing: dict[str, Any] = {key: {} for key in ("repository", "base_model", "verdict")}
        return ReleaseRecord(
            model="cloth",
            number=3,
            adapter=adapter.reference(),
            evaluation=evaluation.reference(),
            mlflow_run_id=None,
            provenance={},
            **nothing,
        )

    evaluation = made("evaluation_report")
    same = record(made("lora_weights"), evaluation)
    older = record(made("lora_weights", peft="0.20.5"), evaluation)
    serving = of_manifest(evaluation.manifest)
    for allow, wanted, software, why in (
        ("{}", same, serving, None),
        ("{}", older, serving, "release 3 of cloth: compatibility: peft is 0.20.5 at training"),
        ("{peft: '*'}", older, serving, None),
        ("{}", same, None, "nothing tells which torch serving ran with"),
    ):
        project.model_file("cloth").write_text(CONFIG % allow)
        refusal = upgrades.refusal(project, wanted, software)
        assert (why is None and refusal is None) or (refusal and why and why in refusal)
    # The adapter itself may be gone: its manifest tells.
    discard(Store(project), Store(project).open(older.adapter))
    found = upgrades.compatibility(project, older, serving, CompatibilityConfig())
    assert not found.compatible
