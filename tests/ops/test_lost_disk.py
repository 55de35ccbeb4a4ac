"""A disk is lost; what was live is served again from the backup, and so is the release before."""

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from adire_assets.ops.backup import backup, restore
from tests.serving.conftest import QUICK
from tests.support.light import add_light, light_house


def test_a_lost_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "ADIRE_FLEET"):
        monkeypatch.delenv(name, raising=False)
    house = light_house(tmp_path / "project", QUICK)
    fleet = house.project.root / "configs" / "fleet.yaml"
    YAML().dump(house.fleet.model_dump(mode="json", exclude_none=True), fleet)
    add_light(house)
    add_light(house)
    with house.up():
        house.deploy(1)
        house.deploy(2)
        with house.requests_all_along():
            backup(house.project, tmp_path / "kept", print)
    shutil.rmtree(house.project.home)
    restore(house.project, tmp_path / "kept", print)
    with house.up():
        assert house.serving() == 2
        assert not house.differences()
        house.roll_back()
        assert house.serving() == 1
