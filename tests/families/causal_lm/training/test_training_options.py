"""Options of a language model's training: what each changes, and what it must not change."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from adire_assets.core import job_folder
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import file_digest
from adire_assets.families.causal_lm.adapter_files import CONFIG, WEIGHTS, problems_of
from adire_assets.families.causal_lm.chat import load_tokenizer
from adire_assets.families.causal_lm.training import lora
from adire_assets.families.causal_lm.training.examples import Examples
from adire_assets.families.causal_lm.training.learning import AnswerLearning
from adire_assets.families.causal_lm.training.settings import TrainingConfig
from adire_assets.families.training import launch
from adire_assets.families.training.processes import accelerator_for
from tests.support import language
from tests.support.training import curve

CHILD_SECONDS = 300


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def plain(base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language.run(tmp_path_factory.mktemp("plain"), base, dataset)


def losses(folder: Path) -> list[float]:
    return list(curve(folder).values())


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"packing": False}, 1e-3),
        ({"gradient_checkpointing": True}, 1e-5),
        ({"train_batch_size": 1, "gradient_accumulation_steps": 4, "max_length": 256}, 1e-3),
        ({"mixed_precision": "bf16"}, 3e-2),
        pytest.param({"torch_compile": True}, 1e-3, marks=pytest.mark.full),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_how_it_is_computed_does_not_change_what_is_learnt(
    base: Path, dataset: Path, plain: Path, tmp_path: Path, settings: dict, tolerance: float
) -> None:
    assert losses(language.run(tmp_path, base, dataset, **settings)) == pytest.approx(
        losses(plain), rel=tolerance
    )


def kept_for_the_backward(base: Path, dataset: Path, **settings: Any) -> int:
    """Bytes that a step's forward saves, each memory once, weights left out."""
    config = TrainingConfig.model_validate({**language.SETTINGS, **settings})
    accelerator = accelerator_for(config, "cpu")
    model = lora.load_model(base, config, accelerator)
    examples = Examples(dataset, config, load_tokenizer(base), device=accelerator.device)
    task = AnswerLearning(model, examples, config, accelerator)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        [batch] = task.batches(0)
        task.loss(batch, learning=True)
    return sum(size for place, size in kept.items() if place not in weights)


def test_gradient_checkpointing_and_packing_keep_less(base: Path, dataset: Path) -> None:
    usual = kept_for_the_backward(base, dataset)
    assert kept_for_the_backward(base, dataset, gradient_checkpointing=True) < 0.5 * usual
    assert kept_for_the_backward(base, dataset, packing=False) > 1.05 * usual


def test_rslora_divides_by_the_root_of_the_rank(
    base: Path, dataset: Path, plain: Path, tmp_path: Path
) -> None:
    """So an rsLoRA of alpha / sqrt(rank) is the LoRA of alpha / rank."""
    rank, alpha = 4, language.SETTINGS["lora_alpha"]
    settings = {"adapter_type": "rslora", "rank": rank, "lora_alpha": alpha / math.sqrt(rank)}
    output = language.run(tmp_path, base, dataset, **settings)
    assert losses(output) == pytest.approx(losses(plain), rel=1e-4)
    assert json.loads((output / CONFIG).read_text())["use_rslora"] is True


def test_layers_have_the_rank_of_their_pattern(base: Path, dataset: Path, tmp_path: Path) -> None:
    pattern = {"down_proj": 8, "layers.1.self_attn.v_proj": 2}
    output = language.run(tmp_path, base, dataset, rank_pattern=pattern, max_train_steps=2)
    for name, tensor in load_file(output / WEIGHTS).items():
        rank = min(tensor.shape)
        wanted = [rank for ending, rank in pattern.items() if f"{ending}.lora_" in name]
        assert rank == (wanted or [4])[0], name
    said = json.loads((output / CONFIG).read_text())
    ratios = {said["alpha_pattern"][layer] / rank for layer, rank in said["rank_pattern"].items()}
    assert ratios == {said["lora_alpha"] / said["r"]}
    assert problems_of(output, base) == []


EVERYTHING: dict[str, Any] = {
    "lora_dropout": 0.2,
    "use_ema": True,
    "ema_decay": 0.5,
    "lr_scheduler": "cosine",
    "gradient_checkpointing": True,
    "mixed_precision": "bf16",
    "validation_steps": 2,
    "keep_checkpoint": "best",
}


def test_a_killed_run_with_everything_on_ends_in_the_same_bytes(
    base: Path, dataset: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(message: str, step: int = 0, **numbers: float) -> None:
        if step == 6:
            raise Killed

    whole = language.run(tmp_path / "whole", base, dataset, **EVERYTHING)
    with pytest.raises(Killed):
        language.run(tmp_path / "killed", base, dataset, progress=kill, **EVERYTHING)
    output = language.run(tmp_path / "killed", base, dataset, **EVERYTHING)
    for name in (WEIGHTS, "loss.csv", "validation.csv", "training.json"):
        assert file_digest(output / name) == file_digest(whole / name), name


def in_two_processes(folder: Path, base: Path, dataset: Path, distribution: str = "ddp") -> Path:
    """What `plain` learns, half of each batch in a process of its own; the adapter's folder."""
    output, job = folder / "output", folder / "job"
    output.mkdir(parents=True)
    job.mkdir()
    settings = {
        **language.SETTINGS,
        "train_batch_size": 2,
        "num_processes": 2,
        "distribution": distribution,
    }
    given = {
        "dataset": str(dataset),
        "base": str(base),
        "output": str(output),
        "training": settings,
        "work": str(folder / "work"),
        "device": "cpu",
    }
    function = "adire_assets.families.causal_lm.training.lora:train"
    job_folder.write_job(job, function, given, threads=1)
    command = job_folder.command(job, launcher=launch.launcher("cpu", settings))
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return output


@pytest.mark.parametrize("distribution", ["ddp", pytest.param("fsdp", marks=pytest.mark.full)])
def test_two_processes_learn_what_one_learns_with_twice_the_batch(
    base: Path, dataset: Path, plain: Path, tmp_path: Path, distribution: str
) -> None:
    output = in_two_processes(tmp_path / "first", base, dataset, distribution)
    assert losses(output) == pytest.approx(losses(plain), rel=1e-4)
    whole = load_file(plain / WEIGHTS)
    for name, values in load_file(output / WEIGHTS).items():
        assert np.allclose(values, whole[name], atol=1e-3), name
    again = in_two_processes(tmp_path / "again", base, dataset, distribution)
    for name in (WEIGHTS, "loss.csv", "training.json"):
        assert file_digest(again / name) == file_digest(output / name), name


def test_a_base_in_4_bits_is_refused_on_the_cpu(base: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quantization: 4bit needs a CUDA GPU; here use none"):
        language.run(tmp_path, base, dataset, quantization="4bit")


def test_a_base_in_4_bits_is_not_spread_over_processes() -> None:
    settings = {"quantization": "4bit", "distribution": "fsdp", "num_processes": 2}
    with pytest.raises(ValueError, match=r"quantization: 4bit .* distribution: fsdp"):
        TrainingConfig.model_validate(settings)
