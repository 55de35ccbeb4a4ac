"""What each option of the training changes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.numpy import load_file

from adire_assets.core import job_folder, worker
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.families.diffusion.engine.architecture import Noise
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE, Request, Sampler
from adire_assets.families.diffusion.formats.adapter import inspect_adapter
from adire_assets.families.diffusion.training import objectives
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.tracking import runs
from tests.support import tiny, training

CHILD_SECONDS = 300


def drawn(base: Path, adapter: Path) -> np.ndarray:
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(adapter))
    rng = torch.Generator().manual_seed(0)
    return pipe("cloth", num_inference_steps=2, generator=rng, output_type="np").images


@pytest.mark.parametrize("adapter_type", ["lora", "rslora", "dora"])
def test_each_kind_of_adapter_is_sound_and_loads_as_what_was_trained(
    tmp_path: Path, random_base: Path, dataset: Path, adapter_type: str
) -> None:
    settings = {
        "adapter_type": adapter_type,
        "rank": 4,
        "lora_alpha": 8,
        "learning_rate": 1e-2,
        "train_text_encoder": True,
        "target_modules": ["to_k", "to_q", "conv1", "proj_in", "ff.net.2"],
    }
    output = training.run(tmp_path, random_base, dataset, **settings)
    assert inspect_adapter(output, random_base) == []
    pipe = StableDiffusionPipeline.from_pretrained(random_base)
    pipe.load_lora_weights(str(output))
    layers = [layer for layer in pipe.unet.modules() if hasattr(layer, "lora_A")]
    scale = 8 / math.sqrt(4) if adapter_type == "rslora" else 8 / 4
    assert {layer.scaling["default_0"] for layer in layers} == {scale}
    magnitudes = sum(bool(layer.lora_magnitude_vector) for layer in layers)
    assert magnitudes == (len(layers) if adapter_type == "dora" else 0)
    if adapter_type == "dora":
        written = load_file(output / ADAPTER_FILE)
        names = [name for name in written if "magnitude" in name]
        loaded = dict(pipe.unet.named_parameters())
        name = next(name for name in names if name.startswith("unet."))
        inside = next(n for n in loaded if n.startswith(name.removeprefix("unet.")))
        assert np.array_equal(loaded[inside].detach().numpy(), written[name])


@pytest.mark.parametrize("train_text_encoder", [False, True])
@pytest.mark.parametrize("architecture", ["sd2", "sdxl"])
def test_other_architectures_are_trained_by_the_same_code(
    tmp_path: Path, dataset: Path, architecture: str, train_text_encoder: bool
) -> None:
    base = tiny.make_random_base(tmp_path / "base", architecture=architecture)
    output = training.run(
        tmp_path,
        base,
        dataset,
        max_train_steps=30,
        checkpointing_steps=10,
        train_text_encoder=train_text_encoder,
        validation_prompt="cloth",
        validation_num_inference_steps=2,
    )
    report = json.loads((output / "training.json").read_text())
    assert report["final_loss"] < report["first_loss"]
    assert inspect_adapter(output, base) == []
    parts = {name.partition(".")[0] for name in load_file(output / ADAPTER_FILE)}
    encoders = {"text_encoder", *(["text_encoder_2"] if architecture == "sdxl" else [])}
    assert parts == {"unet", *(encoders if train_text_encoder else ())}
    assert (output / "validation" / "00.png").is_file()


def test_a_rank_above_what_a_layer_can_have_is_refused(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    settings: dict[str, Any] = {"rank": 8, "lora_alpha": 16, "target_modules": ["to_q", "conv_out"]}
    with pytest.raises(UserError, match=r"training.rank: 8 .*conv_out at most 4.*conv_out: 4"):
        training.run(tmp_path, random_base, dataset, **settings)
    output = training.run(tmp_path, random_base, dataset, **settings, rank_pattern={"conv_out": 4})
    written = load_file(output / ADAPTER_FILE)
    assert written["unet.conv_out.lora_A.weight"].shape[0] == 4
    pipe = StableDiffusionPipeline.from_pretrained(random_base)
    pipe.load_lora_weights(str(output))
    assert pipe.unet.conv_out.scaling["default_0"] == 2.0


def test_pictures_of_the_validation_are_drawn_by_the_scheduler_that_is_asked_for(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    shown = {"validation_prompt": "cloth", "validation_num_inference_steps": 4, "seed": 3}
    name = "EulerAncestralDiscreteScheduler"
    output = training.run(
        tmp_path, random_base, dataset, **shown, validation_scheduler=name, max_train_steps=2
    )
    request = Request("cloth", seed=3, num_inference_steps=4, num_images=4, scheduler=name)
    [images] = Sampler(random_base, adapter=output, device="cpu").generate([request])
    for number, image in enumerate(images):
        kept = np.asarray(Image.open(output / "validation" / f"{number:02}.png"))
        assert np.array_equal(kept, image)


def test_min_snr_weighs_by_the_papers_formula() -> None:
    schedule = DDPMScheduler()
    times = torch.tensor([0, 300, 900])
    kept = schedule.alphas_cumprod[times]
    ratio = kept / (1 - kept)
    least = torch.minimum(ratio, torch.tensor(5.0))
    assert torch.allclose(Noise(schedule.config).weights(times, 5.0), least / ratio)
    velocity = DDPMScheduler(prediction_type="v_prediction")
    assert torch.allclose(Noise(velocity.config).weights(times, 5.0), least / (ratio + 1))


def test_objectives_are_means_over_each_example() -> None:
    predicted = torch.zeros(2, 1, 2, 2)
    target = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]], [[[3.0, 0.0], [0.0, 0.0]]]])
    assert objectives.mse(predicted, target).tolist() == [0.25, 2.25]
    assert objectives.huber(predicted, target).tolist() == [0.125, 0.625]
    reference = torch.nn.functional.smooth_l1_loss(predicted, target)
    assert objectives.huber(predicted, target).mean() == reference


def test_min_snr_lowers_the_loss_that_is_learned_not_the_one_that_is_compared(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    runs = [
        training.run(tmp_path / str(gamma), random_base, dataset, snr_gamma=gamma, **OFF)
        for gamma in (None, 0.01)
    ]
    plain, weighted = (training.curve(run)[1] for run in runs)
    assert weighted < 0.9 * plain
    before, after = (training.curve(run, "validation")[1] for run in runs)
    assert after == pytest.approx(before, rel=1e-3)


OFF: dict[str, Any] = {"learning_rate": 1e-9, "max_train_steps": 1}


def test_the_average_of_the_weights_is_what_is_kept(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    weights: list[dict[str, np.ndarray]] = []
    for steps in (1, 2, 3):
        output = training.run(
            tmp_path / str(steps),
            random_base,
            dataset,
            max_train_steps=steps,
            lr_scheduler="constant",
        )
        weights.append(load_file(output / ADAPTER_FILE))
    averaged = training.run(
        tmp_path / "ema", random_base, dataset, max_train_steps=3, use_ema=True, ema_decay=0.15
    )
    found = load_file(averaged / ADAPTER_FILE)
    for name, last in weights[2].items():
        # It starts from the first weights, which B = 0 and A are not in these files: use B.
        if "lora_B" not in name:
            continue
        wanted = np.zeros_like(last)
        for step, value in enumerate(weights):
            decay = min(0.15, (1 + step) / (10 + step))
            wanted = decay * wanted + (1 - decay) * value[name]
        assert np.allclose(found[name], wanted, atol=1e-6), name


def test_the_best_checkpoint_is_that_of_the_least_validation_loss(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    settings = {"max_train_steps": 8, "validation_steps": 2, "learning_rate": 0.3, "rank": 2}
    best = training.run(tmp_path / "best", random_base, dataset, keep_checkpoint="best", **settings)
    losses = training.curve(best, "validation")
    assert list(losses) == [2, 4, 6, 8]
    kept = min(losses, key=lambda step: losses[step])
    report = json.loads((best / "training.json").read_text())
    assert report["kept_step"] == kept
    assert report["validation_loss"] == pytest.approx(losses[kept], rel=1e-5)
    assert kept < 8, "raise the rate: the last is to be worse"
    shorter = training.run(
        tmp_path / "shorter", random_base, dataset, **{**settings, "max_train_steps": kept}
    )
    assert (best / ADAPTER_FILE).read_bytes() == (shorter / ADAPTER_FILE).read_bytes()


def test_a_loss_that_explodes_ends_in_a_sentence(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    with pytest.raises(UserError, match=r"the loss exploded.*lower training.learning_rate"):
        training.run(
            tmp_path,
            random_base,
            dataset,
            max_train_steps=100,
            learning_rate=20.0,
            rank=2,
            target_modules=["conv_out"],
        )
    assert list((tmp_path / "output").iterdir()) == []


def test_long_captions_are_told_once_with_what_is_cut(tmp_path: Path, random_base: Path) -> None:
    data = tiny.make_dataset(tmp_path / "data")
    lines = (data / "train.jsonl").read_text().splitlines()
    row = json.loads(lines[1]) | {"text": "x" * (tiny.TOKENS - 2) + "beyond"}
    (data / "train.jsonl").write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]) + "\n")
    said: list[str] = []
    training.run(
        tmp_path, random_base, data, progress=lambda message, **numbers: said.append(message)
    )
    [told] = [message for message in said if "longer than the text encoder" in message]
    assert told.startswith("1 texts are longer than the text encoder reads: ")
    assert "01.png loses 'beyond'" in told


def test_prior_preservation_draws_the_class_once(
    tmp_path: Path, random_base: Path, dataset: Path
) -> None:
    settings = {
        "with_prior_preservation": True,
        "class_prompt": "a cloth",
        "num_class_images": 3,
        "validation_num_inference_steps": 2,
    }
    said: list[str] = []

    def progress(message: str, **numbers: float) -> None:
        said.append(message)

    for name in ("one", "two"):
        given = training.arguments(tmp_path / name, random_base, dataset, **settings)
        from adire_assets.families.diffusion.training import lora

        lora.train(**given, cache=str(tmp_path / "cache"), progress=progress)
    assert sum("drawing 3 images of 'a cloth'" in message for message in said) == 1
    assert len(list((tmp_path / "cache" / "class").rglob("*.png"))) == 3
    files = [(tmp_path / name / "output" / ADAPTER_FILE).read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True, "train_text_encoder": True},
        {"channels_last": True},
        {"optimizer": "adafactor", "learning_rate": 0.1, "max_train_steps": 90},
        {"mixed_precision": "bf16"},
        {"objective": "huber"},
    ],
)
def test_ways_to_compute_learn(
    tmp_path: Path, random_base: Path, dataset: Path, settings: dict[str, Any]
) -> None:
    steps = {"max_train_steps": 30, "checkpointing_steps": 10}
    output = training.run(tmp_path, random_base, dataset, **steps | settings)
    report = json.loads((output / "training.json").read_text())
    assert report["final_loss"] < report["first_loss"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "adamw_8bit"}, "adamw_8bit needs a CUDA GPU; here use adamw"),
        ({"quantization": "4bit"}, "quantization: 4bit needs a CUDA GPU; here use none"),
        ({"num_processes": 2}, "num_processes is 2, but 1 take part"),
    ],
)
def test_what_cannot_be_had_here_is_said(
    tmp_path: Path, random_base: Path, dataset: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        training.run(tmp_path, random_base, dataset, **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "adamm"}, "there is no optimizer adamm; there is adafactor, adamw"),
        ({"with_prior_preservation": True}, "needs a class_prompt"),
        ({"keep_checkpoint": "best"}, "best needs validation_steps"),
        ({"random_flip": True, "augmentations": ["random_flip"]}, "same entry twice"),
        ({"num_processes": 3, "num_machines": 2}, "a multiple of num_machines"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        TrainingConfig.model_validate(settings)


def test_mlflow_shows_validation_while_it_trains(
    tmp_path: Path,
    mlflow_project: Project,
    random_base: Path,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADIRE_PROJECT", str(mlflow_project.root))
    run = runs.training_run(mlflow_project, "indigo", "a" * 64)
    given = training.arguments(
        tmp_path,
        random_base,
        dataset,
        validation_prompt="cloth",
        validation_num_inference_steps=1,
        validation_steps=4,
    )
    job = tmp_path / "job"
    job.mkdir()
    job_folder.write_job(
        job,
        "adire_assets.families.diffusion.training.lora:train",
        given,
        threads=1,
        recorder=runs.recorder(run),
    )
    assert worker.run_job(job)
    with runs.client(mlflow_project) as mlflow:
        losses = mlflow.get_metric_history(run, "validation_loss")
        shown = {
            file.path
            for folder in mlflow.list_artifacts(run, "validation")
            for file in mlflow.list_artifacts(run, folder.path)
        }
    assert {metric.step for metric in losses} == {4, 8}
    assert shown == {
        f"validation/step-{step:06}/{number:02}.png" for step in (4, 8) for number in range(4)
    }


def test_memory_stays_flat(tmp_path: Path, random_base: Path, dataset: Path) -> None:
    held: dict[int, int] = {}

    def progress(message: str, **numbers: float) -> None:
        if "loss" in numbers:
            held[int(numbers["step"])] = psutil.Process().memory_info().rss

    settings = {"max_train_steps": 400, "checkpointing_steps": 50, "random_flip": True}
    training.run(tmp_path, random_base, dataset, progress=progress, use_ema=True, **settings)
    grown = (held[400] - held[100]) / 2**20
    assert grown < 8, f"{grown:.1f} MiB more at step 400 than at step 100"
