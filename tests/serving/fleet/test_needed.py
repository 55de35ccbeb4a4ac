"""Which slots `adire up` starts: those of kinds that a model needs."""

import re
import shutil
from pathlib import Path

import pytest

from adire_assets.config.fleet import load_fleet
from adire_assets.core.files import write_json
from adire_assets.serving.fleet.needed import needed
from tests.support.house import TARGET, House
from tests.support.light import light_house

ROOT = Path(__file__).parents[3]


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A disabled model of images, an enabled one of texts, and slots of both kinds."""
    house = light_house(tmp_path)
    root = house.project.root
    shutil.copytree(ROOT / "configs" / "prompts", root / "configs" / "prompts", dirs_exist_ok=True)
    shutil.copy(ROOT / "configs" / "fleet.yaml", root / "configs")
    (root / "configs" / "models").mkdir(exist_ok=True)
    for name, source, enabled in (
        (house.model, "indigo", "false"),
        ("letters", "adire_letters", "true"),
    ):
        text = (ROOT / "configs" / "models" / f"{source}.yaml").read_text()
        text = re.sub(r"(?m)^enabled: \w+", f"enabled: {enabled}", text)
        house.project.model_file(name).write_text(text)
    return house


def kinds(house: House) -> set[str]:
    target = needed(house.project, load_fleet(house.project)).targets[TARGET]
    return {slot.server for slot in target.slots.values()}


def test_a_disabled_model_needs_slots_once_it_was_materialized(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADIRE_FLEET", raising=False)
    assert kinds(house) == {"vllm"}
    write_json(
        house.project.home / "references" / "latest" / house.model / "dataset.json", {"key": "one"}
    )
    assert kinds(house) == {"vllm", "triton"}


def test_the_engine_of_a_model_says_which_slots_it_needs(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADIRE_FLEET", raising=False)
    path = house.project.model_file("letters")
    path.write_text(re.sub(r"(?m)^serving:.*$", "serving:\n  engine: triton", path.read_text()))
    assert kinds(house) == {"triton"}


def test_without_any_model_the_first_kind_is_there(house: House) -> None:
    for path in house.project.model_file("letters").parent.glob("*.yaml"):
        path.unlink()
    assert kinds(house) == {"triton"}
