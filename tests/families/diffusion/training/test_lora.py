"""LoRA training: what is learned, what is written, and that a kill changes no bit of it."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from safetensors.numpy import load_file

from adire_assets.core import job_folder
from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.engine.architecture import Noise
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE
from adire_assets.families.training.launch import launcher
from tests.support import tiny, training

# Everything that draws at random or keeps state between steps.
EVERYTHING: dict[str, Any] = {
    "max_train_steps": 9,
    "checkpointing_steps": 3,
    "train_text_encoder": True,
    "lora_dropout": 0.1,
    "center_crop": False,
    "random_flip": True,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "augmentations": ["random_half_turn"],
    "aspect_ratio_buckets": True,
    "proportion_empty_prompts": 0.2,
    "noise_offset": 0.1,
    "snr_gamma": 5.0,
    "use_ema": True,
    "validation_steps": 2,
    "keep_checkpoint": "best",
}


CHILD_SECONDS = 250  # patience on a busy machine; an idle one takes about ten


class Stopped(Exception):
    pass


def stop_at(step: int) -> Callable[..., None]:
    def progress(message: str, **numbers: float) -> None:
        if "loss" in numbers and numbers["step"] == step:
            raise Stopped

    return progress


def test_the_adapter_loads_with_the_stock_pipeline_and_keeps_its_alpha(
    random_base: Path, adapter: Path
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(random_base)
    pipe.load_lora_weights(str(adapter))
    for model in (pipe.unet, pipe.text_encoder):
        scalings = {
            scaling
            for layer in model.modules()
            if hasattr(layer, "lora_A")
            for scaling in layer.scaling.values()
        }
        assert scalings == {8 / 2}


def test_the_stock_loader_takes_every_trained_layer(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    output = training.run(
        tmp_path,
        random_base,
        dataset,
        target_modules=["to_k", "to_out.0", "conv1", "ff.net.2", "proj_in", "conv_in"],
        train_text_encoder=True,
    )
    pipe = StableDiffusionPipeline.from_pretrained(random_base)
    pipe.load_lora_weights(str(output))
    loaded = {
        f"{component}.{name.replace('.default_0', '')}": weight.detach().numpy()
        for component in ("unet", "text_encoder")
        for name, weight in getattr(pipe, component).named_parameters()
        if "lora_" in name
    }
    written = load_file(output / ADAPTER_FILE)
    assert loaded.keys() == written.keys()
    assert all(np.array_equal(loaded[name], written[name]) for name in written)
    assert {"conv1", "ff", "proj_in", "conv_in", "self_attn"} <= set(".".join(written).split("."))


def test_the_files_tell_the_course_of_the_training(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    lines: list[tuple[str, dict[str, float]]] = []
    output = training.run(
        tmp_path,
        random_base,
        dataset,
        progress=lambda message, **numbers: lines.append((message, numbers)),
        max_train_steps=30,
        checkpointing_steps=10,
        train_batch_size=4,
        target_modules=["to_q", "to_v", "conv1", "ff.net.2"],
        validation_prompt="cloth",
        num_validation_images=2,
    )
    written = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    assert written == [
        "loss.csv",
        ADAPTER_FILE,
        "timings.json",
        "training.json",
        "validation.csv",
        "validation/00.png",
        "validation/01.png",
    ]
    report = json.loads((output / "training.json").read_text())
    assert report["steps"] == 30
    assert report["final_loss"] < report["first_loss"]
    rows = list(csv.DictReader((output / "loss.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 31))
    last = np.mean([float(row["loss"]) for row in rows[-10:]])
    assert last == pytest.approx(report["final_loss"], rel=1e-4)
    steps = [numbers for _, numbers in lines if "loss" in numbers]
    assert {10, 20, 30} <= {numbers["step"] for numbers in steps}
    assert all(
        numbers.keys() == {"step", "loss", "learning_rate", "steps_per_second"} for numbers in steps
    )
    assert any(
        re.fullmatch(r"step 20/30 loss \d\.\d{4} [\d.]+ steps/s \d+s left", message)
        for message, _ in lines
    )


def test_an_interrupted_run_leaves_no_output_and_ends_in_the_same_bits(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    settings = EVERYTHING | {
        "validation_prompt": "cloth",
        "num_validation_images": 1,
        "validation_num_inference_steps": 1,
    }
    whole = training.run(tmp_path / "whole", random_base, dataset, **settings)
    broken = tmp_path / "broken"
    with pytest.raises(Stopped):
        training.run(broken, random_base, dataset, progress=stop_at(6), **settings)
    assert list((broken / "output").iterdir()) == []
    # What a kill in the middle of writing the next checkpoint leaves.
    (broken / "work" / ".tmp-9").mkdir()
    (broken / "work" / ".tmp-9" / "weights.safetensors").write_bytes(b"half")
    said: list[str] = []
    moved = Path(shutil.copytree(random_base, tmp_path / "moved"))
    again = training.run(
        broken,
        moved,
        dataset,
        progress=lambda message, **numbers: said.append(message),
        **settings,
    )
    assert "going on from the checkpoint at step 6" in said
    made = [
        {path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()}
        for one in (whole, again)
    ]
    for files in made:
        del files[Path("timings.json")]
    assert made[0] == made[1]
    assert Path("validation/step-000002/00.png") in made[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("config", r"training\.learning_rate was 0\.01 and is 0\.02; go back"),
        ("data", r"another run: data was"),
        ("base", r"encoded\.base was"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(
    tmp_path: Path, random_base: Path, dataset: Path, change: str, sentence: str
) -> None:
    with pytest.raises(Stopped):
        training.run(tmp_path, random_base, dataset, progress=stop_at(4))
    base, data, settings = random_base, dataset, {}
    if change == "config":
        settings = {"learning_rate": 2e-2}
    elif change == "data":
        data = tiny.make_dataset(tmp_path / "other", seed=1)
    else:
        base = tiny.make_random_base(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=sentence):
        training.run(tmp_path, base, data, **settings)
    said: list[str] = []
    training.run(
        tmp_path, random_base, dataset, progress=lambda message, **numbers: said.append(message)
    )
    assert "going on from the checkpoint at step 4" in said


def test_accumulating_batches_learns_what_one_larger_batch_learns(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    losses, adapters = [], []
    for size, accumulation in ((4, 1), (1, 4)):
        output = training.run(
            tmp_path / str(size),
            random_base,
            dataset,
            train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-3,
        )
        rows = csv.DictReader((output / "loss.csv").open())
        losses.append([float(row["loss"]) for row in rows])
        adapters.append(load_file(output / ADAPTER_FILE))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, values in adapters[0].items():
        assert np.allclose(values, adapters[1][name], atol=1e-3), name


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_target_is_what_the_schedule_of_the_base_predicts(prediction_type: str) -> None:
    schedule = DDPMScheduler(prediction_type=prediction_type)
    clean, noise = torch.randn(2, 3, 4, 8, 8)
    times = torch.tensor([10, 500, 990])
    kept = schedule.alphas_cumprod[times][:, None, None, None]
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * clean
    right = {"epsilon": noise, "v_prediction": velocity}[prediction_type]
    assert torch.allclose(Noise(schedule.config).target(clean, noise, times), right, atol=1e-6)


def test_an_unknown_prediction_type_is_refused(tmp_path: Path, dataset: Path) -> None:
    base = tiny.make_random_base(tmp_path / "base", prediction_type="sample")
    with pytest.raises(UserError, match="prediction_type sample"):
        training.run(tmp_path, base, dataset)


def test_target_modules_that_do_not_exist_are_named_with_those_that_do(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    with pytest.raises(UserError) as caught:
        training.run(tmp_path, random_base, dataset, target_modules=["to_q", "to_z", "attn1"])
    text = str(caught.value)
    assert text.startswith("training.target_modules: the unet has no")
    assert "to_z, attn1;" in text
    assert "to_out.0" in text and "conv_in" in text


def test_a_rank_for_a_layer_that_is_not_trained_is_refused(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    pattern = {"to_q": 2, "conv_ot": 2, "conv1": 2}
    with pytest.raises(UserError, match=r"rank_pattern: no layer .* ends in conv1, conv_ot;"):
        training.run(tmp_path, random_base, dataset, rank_pattern=pattern)


def test_a_loss_that_is_no_number_ends_in_a_sentence_and_no_file(
    tmp_path: Path, dataset: Path
) -> None:
    base = tiny.make_random_base(tmp_path / "base", largest_weight=1e38)
    with pytest.raises(UserError, match=r"became NaN at step 1: lower training.learning_rate"):
        training.run(tmp_path, base, dataset)
    assert list((tmp_path / "output").iterdir()) == []


def test_a_ruinous_learning_rate_gives_a_finite_bad_adapter_or_a_sentence(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    try:
        output = training.run(tmp_path, random_base, dataset, learning_rate=100.0)
    except UserError as error:
        assert "lower training.learning_rate (now 100)" in str(error)
        assert list((tmp_path / "output").iterdir()) == []
    else:
        assert all(np.isfinite(value).all() for value in load_file(output / ADAPTER_FILE).values())


def test_half_precision_weights_of_the_base_train_in_float32_on_the_cpu(
    tmp_path: Path, dataset: Path
) -> None:
    base = tiny.make_random_base(tmp_path / "base", variant="fp16")
    output = training.run(tmp_path, base, dataset, variant="fp16")
    assert {str(value.dtype) for value in load_file(output / ADAPTER_FILE).values()} == {"float32"}


def test_fp16_training_without_a_gpu_is_refused(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        training.run(tmp_path, random_base, dataset, mixed_precision="fp16")


def start(folder: Path, given: dict[str, Any], hash_seed: str) -> subprocess.Popen[str]:
    """A process whose child is the training, in a worker."""
    job = folder / "job"
    job.mkdir(parents=True, exist_ok=True)
    job_folder.write_job(
        job, "adire_assets.families.diffusion.training.lora:train", given, threads=1
    )
    command = job_folder.command(job, launcher=launcher("cpu", given["training"]))
    wait = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    return subprocess.Popen(
        [sys.executable, "-c", wait, *command],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_child_takes_all_down_and_the_next_run_ends_in_the_same_bits(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    settings = {"max_train_steps": 60, "checkpointing_steps": 5}
    killed = training.arguments(tmp_path / "killed", random_base, dataset, **settings)
    first = start(tmp_path / "killed", killed, hash_seed="2")
    work = tmp_path / "killed" / "work"
    deadline = time.monotonic() + CHILD_SECONDS
    while not list(work.glob("step-*")):
        assert first.poll() is None and time.monotonic() < deadline, first.stdout
        time.sleep(0.01)
    children = psutil.Process(first.pid).children(recursive=True)
    assert children
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert not list(Path(killed["output"]).iterdir())
    second = start(tmp_path / "killed", killed, hash_seed="3")
    said, _ = second.communicate(timeout=CHILD_SECONDS)
    assert second.returncode == 0, said
    assert "going on from the checkpoint at step" in said
    whole = training.run(tmp_path / "whole", random_base, dataset, **settings)
    resumed = Path(killed["output"])
    assert (resumed / ADAPTER_FILE).read_bytes() == (whole / ADAPTER_FILE).read_bytes()
    result = json.loads((tmp_path / "killed" / "job" / "result.json").read_text())
    assert result["steps"] == 60


def test_a_refused_training_reaches_the_parent_as_a_sentence(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    given = training.arguments(tmp_path, random_base, dataset, target_modules=["nothing"])
    child = start(tmp_path, given, hash_seed="0")
    said, _ = child.communicate(timeout=CHILD_SECONDS)
    assert child.returncode != 0
    assert "Traceback" not in said
    assert "training.target_modules" in (tmp_path / "job" / "error.txt").read_text()
