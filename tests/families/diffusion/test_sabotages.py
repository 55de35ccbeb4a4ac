"""What the gates' benchmark spoils, and that it spoils nothing else."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adire_assets.core.lineage import folder_digest
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE
from adire_assets.families.diffusion.sabotages import sabotages
from adire_assets.families.diffusion.training.settings import TrainingConfig
from tests.support import tiny

SABOTAGES = sabotages(TrainingConfig(learning_rate=1e-3, max_train_steps=80))


def test_settings_are_others_by_far() -> None:
    assert SABOTAGES["rate"].settings == {"learning_rate": 0.1}
    assert SABOTAGES["half"].settings["max_train_steps"] == 40


@pytest.mark.parametrize("name", ["noise", "one_image"])
def test_training_data_is_spoilt_and_held_out_data_is_not(tmp_path: Path, name: str) -> None:
    dataset = tiny.make_dataset(tmp_path / "dataset")
    before = folder_digest(dataset)[1]
    spoil = SABOTAGES[name].dataset
    assert spoil
    spoil(dataset, 1000)
    after = folder_digest(dataset)[1]
    changed = {file for file in before if before[file] != after[file]}
    images = {f"images/{number:02}.png" for number in range(6)}
    assert changed == (images if name == "noise" else {"train.jsonl"})
    left = (dataset / "train.jsonl").read_text().splitlines()
    assert len(left) == (6 if name == "noise" else 1)


def test_a_scaled_adapter_draws_three_times_as_much(tmp_path: Path) -> None:
    tensors = {name: np.ones((2, 2), np.float32) for name in ("x.lora_A.weight", "x.lora_B.weight")}
    save_file(tensors, tmp_path / ADAPTER_FILE, {"format": "pt"})
    spoil = SABOTAGES["scaled"].adapter
    assert spoil
    spoil(tmp_path)
    found = load_file(tmp_path / ADAPTER_FILE)
    assert [found[name][0, 0] for name in sorted(found)] == [1, 3]
