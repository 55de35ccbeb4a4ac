"""Served projects that the tests here share; each test brings the deployment to where it needs it.

`served` has real diffusion releases, whose loading takes Triton some seconds; `lit` has light ones,
for what does not depend on what is drawn.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adire_assets.config.fleet import RolloutConfig
from adire_assets.core.project import Project
from tests.support.diffusion import add_diffusion
from tests.support.fleets import make_fleet
from tests.support.house import House
from tests.support.light import add_light, light_house

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
# Decides after some thirteen answers, and leaves room for a machine that is busy.
QUICK = RolloutConfig(
    steps=[50, 100],
    minimum_seconds=0.0,
    error_rate_maximum=0.3,
    latency_increase_maximum=None,
    latency_maximum_seconds=30.0,
    promotion_quantiles=["p50"],
    quality_drop_maximum=0.3,
)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Diffusion releases 1 and 2, sound and different, and a fleet description with free ports."""
    root = tmp_path_factory.mktemp("house")
    (root / "configs" / "models").mkdir(parents=True)
    (root / "triton_models").symlink_to(ROOT / "triton_models")
    made = House(Project(root, root / "home"), make_fleet(QUICK, sample_share=1.0), MODEL)
    add_diffusion(made, 1)
    add_diffusion(made, 2)
    return made


@pytest.fixture(scope="session")
def served(house: House) -> Iterator[House]:
    with house.up():
        yield house


@pytest.fixture(scope="module")
def lit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Light releases 1 and 2 on a fleet of their own."""
    made = light_house(tmp_path_factory.mktemp("light") / "project", QUICK)
    add_light(made)
    add_light(made)
    with made.up():
        yield made


def different(first: np.ndarray, second: np.ndarray) -> int:
    """The largest difference of two images in levels of 255."""
    return int(np.abs(first.astype(int) - second.astype(int)).max())
