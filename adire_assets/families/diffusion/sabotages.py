"""Trainings that the gates must refuse, for the gates' benchmark."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from adire_assets.core.files import read_json_lines
from adire_assets.core.sabotage import Sabotage
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE
from adire_assets.families.diffusion.training.settings import TrainingConfig

TRAIN = "train.jsonl"
SCALE = 3.0
# Settings that cost time and change no adapter: the pictures of a training's validation.
UNNEEDED = (
    *("validation_prompt", "num_validation_images"),
    *("validation_num_inference_steps", "validation_guidance_scale", "validation_scheduler"),
)


def sabotages(training: TrainingConfig) -> dict[str, Sabotage]:
    """By name:

    rate         the learning rate times 100
    noise        the training images replaced by noise
    one_image    one training image alone
    scaled       a sound adapter with its B matrices times SCALE
    half         half of the steps, stopped where the schedule is at its height
    """
    half = {"max_train_steps": training.max_train_steps // 2}
    return {
        "rate": Sabotage({"learning_rate": training.learning_rate * 100}),
        "noise": Sabotage(dataset=lambda dataset, seed: change_images(dataset, _noise)),
        # A sabotage hides its data, except where it is what a user may have done: too few images.
        "one_image": Sabotage(dataset=_keep_one, evaluated=True),
        "scaled": Sabotage(adapter=_scale),
        "half": Sabotage(half | {"lr_scheduler": "constant_with_warmup"}),
    }


def change_images(dataset: Path, change: Callable[[int, Image.Image], Image.Image]) -> None:
    """Let the training images of a dataset's folder go through `change(number, image)`."""
    for number, row in enumerate(read_json_lines(dataset / TRAIN)):
        path = dataset / row["file_name"]
        with Image.open(path) as image:
            changed = change(number, image.convert("RGB"))
        changed.save(path)


def _noise(number: int, image: Image.Image) -> Image.Image:
    shape = (image.height, image.width, 3)
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8))


def _keep_one(dataset: Path, seed: int) -> None:
    rows = read_json_lines(dataset / TRAIN)
    row = json.dumps(rows[seed % len(rows)], ensure_ascii=False)
    (dataset / TRAIN).write_text(f"{row}\n", encoding="utf-8")


def _scale(adapter: Path) -> None:
    with safe_open(adapter / ADAPTER_FILE, "numpy") as file:
        metadata = file.metadata()
    tensors = {
        name: tensor * SCALE if "lora_B" in name else tensor
        for name, tensor in load_file(adapter / ADAPTER_FILE).items()
    }
    save_file(tensors, adapter / ADAPTER_FILE, metadata)
