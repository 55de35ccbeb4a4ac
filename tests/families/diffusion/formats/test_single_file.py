"""A checkpoint in one file as a base model: converted whole, or refused with a sentence."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adire_assets.config import held_weights
from adire_assets.core import job_folder, worker
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import file_digest, folder_digest
from adire_assets.core.project import Project
from adire_assets.core.store import read_json
from adire_assets.families.diffusion.engine.sampling import Request, Sampler
from adire_assets.families.diffusion.formats.single_file import convert
from tests.support import tiny
from tests.support.single_file import write_single_file
from tests.support.training import silent

PIN = 32 * "ab"
Tensors = dict[str, torch.Tensor]
CONFIG = """\
data: {{path: data/cloth, instance_prompt: a cloth}}
family: diffusion
base_model: {base}
evaluation:
  judge: {{source: judge}}
"""
ASKED = [
    Request("circles", seed=3, num_inference_steps=2),
    Request("circles", seed=3, num_inference_steps=2, negative_prompt="red"),
]


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, bases: dict[tiny.Architecture, Path]
) -> dict[tiny.Architecture, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        name: write_single_file(base, folder / f"{name}.safetensors")
        for name, base in bases.items()
    }


def converted(file: Path, config: Path, output: Path) -> dict[str, Any]:
    return convert(file=str(file), config=str(config), output=str(output), progress=silent)


def changed(file: Path, target: Path, edit: Callable[[Tensors], Any]) -> Path:
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, target)
    return target


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_file_draws_what_the_folder_it_was_written_from_draws(
    tmp_path: Path,
    bases: dict[tiny.Architecture, Path],
    files: dict[tiny.Architecture, Path],
    architecture: tiny.Architecture,
) -> None:
    base, file = bases[architecture], files[architecture]
    result = converted(file, base, tmp_path / "once")
    converted(file, base, tmp_path / "twice")
    assert sum(result["left_out"].values()) >= 2
    assert folder_digest(tmp_path / "once") == folder_digest(tmp_path / "twice")
    ours = Sampler(tmp_path / "once", device="cpu").generate(ASKED)
    theirs = Sampler(base, device="cpu").generate(ASKED)
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_type_of_the_weights_stays(tmp_path: Path, random_base: Path) -> None:
    file = write_single_file(random_base, tmp_path / "half.safetensors", torch.float16)
    converted(file, random_base, tmp_path / "half")
    written = [load_file(path) for path in (tmp_path / "half").rglob("*.safetensors")]
    assert len(written) == 3
    assert {tensor.dtype for part in written for tensor in part.values()} == {torch.float16}


def add(name: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: torch.ones(3)})


def drop(name: str) -> Callable[[Tensors], Any]:
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if name in key]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (add("lora_unet_mid_block.alpha"), "holds 1 tensors that no part of a .* lora_unet_mid"),
        (add("model.diffusion_model.input_blocks.1.0.extra"), r"takes: model.diff.*\.0\.extra"),
        (add("model.diffusion_model.stranger"), "takes: model.diffusion_model.stranger"),
        (add("first_stage_model.encoder.stranger"), "takes: first_stage_model.encoder.stranger"),
        (add("cond_stage_model.transformer.text_model.stranger"), r"text_model\.stranger"),
        (drop("input_blocks.0.0"), r"nothing in the file fills the unet's conv_in.bias, conv_in"),
        (drop("first_stage_model"), "nothing in the file fills the vae's"),
        (drop("embeddings.token_embedding"), "fills the text_encoder's embeddings.token_embedding"),
        (drop("cond_stage_model"), "not of the architecture .*text.encoder"),
        (add("v_pred"), "predicts velocity, but .* prediction_type epsilon; use a copy"),
        (add("edm_mean"), "a model of the kind playground-v2-5; base models are"),
        (
            lambda tensors: tensors.update(
                {"first_stage_model.quant_conv.bias": torch.ones(8, dtype=torch.float64)}
            ),
            "weights of type F64",
        ),
    ],
)
def test_no_tensor_of_the_file_and_no_weight_of_the_model_is_passed_over(
    tmp_path: Path,
    random_base: Path,
    files: dict[tiny.Architecture, Path],
    edit: Callable[[Tensors], Any],
    says: str,
) -> None:
    file = changed(files["sd15"], tmp_path / "odd.safetensors", edit)
    with pytest.raises(UserError, match=says) as caught:
        converted(file, random_base, tmp_path / "output")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "output").exists()


def test_what_may_stay_behind_is_counted_with_its_reason(
    tmp_path: Path, random_base: Path, files: dict[tiny.Architecture, Path]
) -> None:
    def average(tensors: Tensors) -> None:
        tensors |= {f"model_ema.weight{number}": torch.ones(2) for number in range(3)}
        tensors |= {"first_stage_model.loss.logvar": torch.zeros(())}

    file = changed(files["sd15"], tmp_path / "ema.safetensors", average)
    left_out = converted(file, random_base, tmp_path / "output")["left_out"]
    assert sorted(left_out.values()) == [1, 1, 1, 3]
    assert any("EMA" in reason and count == 3 for reason, count in left_out.items())


@pytest.mark.parametrize(
    ("of", "config"), [("sd15", "sdxl"), ("sdxl", "sd15"), ("sd2", "sd15"), ("sd15", "sd2")]
)
def test_a_config_of_another_architecture_is_refused(
    tmp_path: Path,
    bases: dict[tiny.Architecture, Path],
    files: dict[tiny.Architecture, Path],
    of: tiny.Architecture,
    config: tiny.Architecture,
) -> None:
    with pytest.raises(UserError, match=r"base_model: .* is not of the architecture") as caught:
        converted(files[of], bases[config], tmp_path / "output")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path, random_base: Path) -> None:
    file = tmp_path / "pickle.safetensors"
    file.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(UserError, match="is not a safetensors file: it is pickled"):
        converted(file, random_base, tmp_path / "output")


@pytest.fixture
def project(
    tmp_path: Path, bases: dict[tiny.Architecture, Path], files: dict[tiny.Architecture, Path]
) -> Project:
    """A project whose model `cloth` has the checkpoint models/some.safetensors for its base."""
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    shutil.copyfile(files["sdxl"], tmp_path / "models" / "some.safetensors")
    shutil.copytree(bases["sdxl"], tmp_path / "config")
    project = Project(tmp_path, tmp_path / "home")
    describe(project, "{source: models/some.safetensors, config: {source: config}}")
    return project


def describe(project: Project, base: str) -> None:
    project.model_file("cloth").write_text(CONFIG.format(base=base))


def run_worker(function: str, **arguments: Any) -> dict[str, Any]:
    """A worker child, as Dagster starts it."""
    folder = Path(arguments["output"]).parents[4] / "job"
    folder.mkdir()
    job_folder.write_job(folder, function, arguments, threads=1)
    done = subprocess.run(job_folder.command(folder), check=False)
    if done.returncode == worker.REFUSED:
        raise UserError((folder / "error.txt").read_text())
    return read_json(folder / "result.json")


def never(function: str, **arguments: Any) -> dict[str, Any]:
    raise AssertionError(f"{function} was started")


def test_the_base_model_of_a_file_is_converted_once_in_a_child(project: Project) -> None:
    assert held_weights.known(project, "cloth", "base_model") is None
    built = held_weights.held(project, "cloth", "base_model", run_worker)
    assert not built.reused
    assert built.artifact.json("base.json") == {"variant": None}
    facts = built.artifact.manifest
    pinned = file_digest(project.root / "models" / "some.safetensors")
    assert facts["recipe"]["inputs"]["weights"] == pinned
    assert (facts["source"], facts["config"]) == ("models/some.safetensors", "config")
    assert sum(facts["left_out"].values()) == 3
    assert {"diffusers", "transformers"} <= facts["recipe"]["environment"].keys()
    sampler = Sampler(built.artifact.path / "pipeline", device="cpu")
    assert sampler.generate(ASKED[:1])[0].std() > 0
    again = held_weights.held(project, "cloth", "base_model", never)
    assert again.reused and again.artifact.key == built.artifact.key
    assert held_weights.known(project, "cloth", "base_model") == built.artifact


@pytest.mark.parametrize("part", ["models/some.safetensors", "config/scheduler"])
def test_another_file_or_config_is_another_base_model(project: Project, part: str) -> None:
    def converted(function: str, **arguments: Any) -> dict[str, Any]:
        Path(arguments["output"]).mkdir()
        return {"left_out": {}}

    held_weights.held(project, "cloth", "base_model", converted)
    assert held_weights.known(project, "cloth", "base_model") is not None
    path = project.root / part
    if path.is_dir():
        config = path / "scheduler_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.011}))
    else:
        path.open("ab").write(b" ")
    assert held_weights.known(project, "cloth", "base_model") is None


def test_what_changes_while_it_is_converted_is_not_kept(project: Project) -> None:
    def swapped(function: str, **arguments: Any) -> dict[str, Any]:
        Path(arguments["output"]).mkdir()
        (project.root / "models" / "some.safetensors").open("ab").write(b" ")
        return {"left_out": {}}

    with pytest.raises(UserError, match=r"changed while it was converted; materialize cloth/base"):
        held_weights.held(project, "cloth", "base_model", swapped)
    assert held_weights.known(project, "cloth", "base_model") is None


def test_a_child_that_refuses_leaves_nothing(project: Project) -> None:
    file = project.root / "models" / "some.safetensors"
    changed(file, file, add("stranger"))
    with pytest.raises(UserError, match="no part of a StableDiffusionXLPipeline takes: stranger"):
        held_weights.held(project, "cloth", "base_model", run_worker)
    assert held_weights.known(project, "cloth", "base_model") is None


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("{source: models/some.safetensors}", r"add config: .*SDXL .*stable-diffusion-xl-base-1.0"),
        (
            "{source: models/some.safetensors, variant: fp16, config: {source: config}}",
            "a single file has none",
        ),
        ("{source: config, config: {source: config}}", "config goes with a single .safetensors"),
        ("{source: models/some.ckpt, config: {source: config}}", "convert a .ckpt"),
        ("{source: models/some.ckpt}", "is pickled, which can run code"),
        (
            "{source: models/some.safetensors, config: {source: config, variant: fp16}}",
            "base_model.config.variant: unknown key",
        ),
        ("{source: a/b, revision: " + 40 * "a" + ", sha256: " + PIN + "}", "by its revision"),
        (
            "{source: models/some.safetensors, sha256: " + PIN + ", config: {source: config}}",
            f"base_model.sha256: .* has the hash .* but {PIN} is pinned",
        ),
        ("{source: config, sha256: " + PIN + "}", f"but {PIN} is pinned"),
    ],
)
def test_mistakes_in_the_config_are_answered_before_anything_is_converted(
    project: Project, base: str, says: str
) -> None:
    describe(project, base)
    with pytest.raises(UserError, match=says) as caught:
        held_weights.held(project, "cloth", "base_model", never)
    assert "\n" not in str(caught.value)
