"""Light releases on targets whose Tritons and Envoys are files (`tests.support.stand_ins`)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.house import House
from tests.support.stand_ins import Fleet, released, stand_in_fleet


@pytest.fixture(scope="module")
def stand_in_house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return released(tmp_path_factory.mktemp("fencing"))


@pytest.fixture
def one(stand_in_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Release 1 is live on one target."""
    with stand_in_fleet(stand_in_house, tmp_path, monkeypatch, [1], ["eu"]) as made:
        yield made


@pytest.fixture
def two(stand_in_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Release 2 is live on two targets, and 1 was before."""
    with stand_in_fleet(stand_in_house, tmp_path, monkeypatch, [1, 2], ["eu", "us"]) as made:
        yield made
