"""The examples of docs/extending.md work as they stand there."""

import json
import re
from pathlib import Path

import pytest

from adire_assets.families.diffusion.training import augmentations, objectives
from adire_assets.families.training import adapter_types, optimizers
from tests.support import training

PAGE = (Path(__file__).parents[4] / "docs" / "extending.md").read_text()
MODULES = {
    "random_grey": (augmentations, augmentations.AUGMENTATIONS),
    "sgd": (optimizers, optimizers.OPTIMIZERS),
    "absolute": (objectives, objectives.OBJECTIVES),
    "orthogonal": (adapter_types, adapter_types.ADAPTER_TYPES),
}
SETTINGS = {
    "random_grey": {"augmentations": ["random_grey"]},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.3, "max_train_steps": 90},
    "absolute": {"objective": "absolute"},
    "orthogonal": {"adapter_type": "orthogonal"},
}


def test_every_example_of_the_page_is_tried() -> None:
    blocks = re.findall(r"```python\n(@.*?)```", PAGE, re.DOTALL)
    assert [re.search(r"def (\w+)", block)[1] for block in blocks] == list(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_an_example_can_be_chosen_by_its_name_and_learns(
    tmp_path: Path, random_base: Path, dataset: Path, name: str
) -> None:
    [block] = re.findall(rf"```python\n(@[^`]*def {name}[^`]*)```", PAGE)
    module, table = MODULES[name]
    exec(block, vars(module))
    try:
        output = training.run(
            tmp_path,
            random_base,
            dataset,
            **{"max_train_steps": 30, "checkpointing_steps": 10} | SETTINGS[name],
        )
    finally:
        del table[name]
    report = json.loads((output / "training.json").read_text())
    assert report["final_loss"] < report["first_loss"]
