"""Every two options of a training together: a covering array of short trainings.

Each pair of values of any two options is in one of these trainings at least. A training must end
with an adapter that fits its base, and go on from its checkpoint in the same bits; or the config
refuses it in a sentence that names the two keys.
"""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE
from adire_assets.families.diffusion.formats.adapter import inspect_adapter
from adire_assets.families.diffusion.training import lora
from adire_assets.families.diffusion.training.settings import TrainingConfig
from tests.support import tiny, training

SIDE = 96  # pixels of the shorter side of an image; the base draws 64
CANDIDATES = 30  # of which the next row is the one that brings most new pairs
PRIOR = {
    "with_prior_preservation": True,
    "class_prompt": "a cloth",
    "num_class_images": 2,
    "validation_num_inference_steps": 1,
}
SHOWN = {
    "validation_prompt": "cloth",
    "num_validation_images": 1,
    "validation_num_inference_steps": 1,
}
BEST = {"validation_steps": 1, "keep_checkpoint": "best"}
# Name -> what may be chosen, each a part of the training section; `base` and `resolution` are what
# the training is given beside it.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "base": [{"base": "sd15"}, {"base": "sd2"}, {"base": "sdxl"}],
    "resolution": [{"resolution": 64}, {"resolution": SIDE}],
    "adapter_type": [{}, {"adapter_type": "rslora"}, {"adapter_type": "dora"}],
    "dropout": [{}, {"lora_dropout": 0.2, "rank_pattern": {"to_v": 2}}],
    "target_modules": [{}, {"target_modules": ["to_v", "conv1", "proj_in", "ff.net.2"]}],
    "train_text_encoder": [{}, {"train_text_encoder": True}],
    "optimizer": [{}, {"optimizer": "adafactor"}],
    "lr_scheduler": [
        {},
        {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 1},
        {"lr_scheduler": "cosine_with_restarts"},
        {"lr_scheduler": "polynomial"},
    ],
    "batch": [
        {"train_batch_size": 1, "gradient_accumulation_steps": 1},
        {"train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"train_batch_size": 3, "gradient_accumulation_steps": 1},
    ],
    "use_ema": [{}, {"use_ema": True, "ema_decay": 0.5}],
    "objective": [{}, {"objective": "huber"}],
    "snr_gamma": [{}, {"snr_gamma": 5.0}],
    "noise_offset": [{}, {"noise_offset": 0.1}],
    "random_flip": [{}, {"random_flip": True}],
    "augmentations": [{}, {"augmentations": ["random_half_turn", "random_vertical_flip"]}],
    "center_crop": [{}, {"center_crop": False}],
    "aspect_ratio_buckets": [{}, {"aspect_ratio_buckets": True}],
    "repeats": [{}, {"repeats": {"wide": 2}}],
    "proportion_empty_prompts": [{}, {"proportion_empty_prompts": 0.5}],
    "with_prior_preservation": [{}, PRIOR, {**PRIOR, "prior_loss_weight": 0.0}],
    "validation_prompt": [{}, SHOWN],
    "keep_checkpoint": [{}, {"validation_steps": 1}, BEST],
    "mixed_precision": [{}, {"mixed_precision": "bf16"}],
    "gradient_checkpointing": [{}, {"gradient_checkpointing": True}],
    "channels_last": [{}, {"channels_last": True}],
    "deterministic": [{}, {"deterministic": False}],
}

Row = tuple[int, ...]  # the place of what is chosen, for each option


def pairs(row: Row) -> set[tuple[int, int, int, int]]:
    return {(a, row[a], b, row[b]) for a, b in itertools.combinations(range(len(row)), 2)}


def covering_rows() -> list[Row]:
    """Rows that have every pair, drawn greedily (Cohen et al. 1997, AETG)."""
    rng = random.Random(0)
    sizes = [len(values) for values in OPTIONS.values()]
    missing = {
        (a, x, b, y)
        for a, b in itertools.combinations(range(len(sizes)), 2)
        for x, y in itertools.product(range(sizes[a]), range(sizes[b]))
    }
    rows = []
    while missing:
        a, x, b, y = min(missing)
        found: list[Row] = []
        for _ in range(CANDIDATES):
            row: dict[int, int] = {a: x, b: y}
            others = [option for option in range(len(sizes)) if option not in row]
            rng.shuffle(others)
            for option in others:
                gains = [
                    sum(
                        (min((o, v), (option, n)) + max((o, v), (option, n))) in missing
                        for o, v in row.items()
                    )
                    for n in range(sizes[option])
                ]
                best = [n for n, gain in enumerate(gains) if gain == max(gains)]
                row[option] = rng.choice(best)
            found.append(tuple(row[option] for option in range(len(sizes))))
        best_row = max(found, key=lambda row: len(pairs(row) & missing))
        rows.append(best_row)
        missing -= pairs(best_row)
    return rows


ROWS = covering_rows()


def chosen(row: Row) -> dict[str, Any]:
    parts = [values[n] for n, values in zip(row, OPTIONS.values(), strict=True)]
    return {key: value for part in parts for key, value in part.items()}


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Square, wide and tall images, the last held out."""
    folder = tmp_path_factory.mktemp("shapes")
    rows = []
    for number, size in enumerate([(96, 96), (192, 96), (96, 128), (150, 96), (130, 96)]):
        name = f"images/{'wide' if size[0] > size[1] else 'other'}/{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        colour = (40 * number, 90, 255 - 40 * number)
        Image.radial_gradient("L").resize(size).convert("RGB").save(folder / name)
        Image.blend(Image.open(folder / name), Image.new("RGB", size, colour), 0.5).save(
            folder / name
        )
        rows.append({"file_name": name, "text": f"cloth {number}"})
    tiny.write_rows(folder / "train.jsonl", rows[:4])
    tiny.write_rows(folder / "validation.jsonl", rows[4:])
    return folder


def test_the_rows_have_every_pair() -> None:
    sizes = [len(values) for values in OPTIONS.values()]
    wanted = sum(a * b for a, b in itertools.combinations(sizes, 2))
    assert len(set().union(*(pairs(row) for row in ROWS))) == wanted
    assert len(ROWS) <= 24


@pytest.mark.full
@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_options_go_together(
    tmp_path: Path, bases: dict[tiny.Architecture, Path], shapes: Path, row: Row
) -> None:
    settings = {"max_train_steps": 2, "checkpointing_steps": 1, **chosen(row)}
    base, resolution = bases[settings.pop("base")], settings.pop("resolution")
    try:
        TrainingConfig.model_validate({**training.SETTINGS, **settings})
    except ValidationError as refused:
        named = [key for key in TrainingConfig.model_fields if key in str(refused)]
        assert len(named) >= 2, refused
        return

    def stop(message: str, **numbers: float) -> None:
        if "loss" in numbers and numbers["step"] == 1:
            raise Stopped

    def train(name: str, progress: Any = training.silent) -> Path:
        given = training.arguments(tmp_path / name, base, shapes, **settings)
        given |= {"resolution": resolution, "cache": str(tmp_path / "cache")}
        lora.train(**given, progress=progress)
        return Path(given["output"])

    whole = train("whole")
    assert inspect_adapter(whole, base) == []
    with pytest.raises(Stopped):
        train("broken", stop)
    resumed = train("broken")
    assert (resumed / ADAPTER_FILE).read_bytes() == (whole / ADAPTER_FILE).read_bytes()
