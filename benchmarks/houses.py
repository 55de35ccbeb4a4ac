"""Projects with a fleet of their own for measurements of serving, by the family of their releases.

    with KINDS["causal_lm"].make(folder, rollout).up() as house:
        number = KINDS["causal_lm"].add(house)
    environment = told(house, "causal_lm")   # for a process of its own, which calls `opened()`

Light releases answer in about 30 ms (tests/support/light.py), those of `diffusion` draw with a
pipeline of random weights, those of `causal_lm` are adapters of a random language model in vLLMs.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adire_assets.config.fleet import FleetConfig, RolloutConfig
from adire_assets.core.project import Project
from tests.support.diffusion import add_diffusion
from tests.support.fleets import make_fleet
from tests.support.house import House
from tests.support.letters_house import LettersHouse, add_letters, letters_house
from tests.support.light import ROOT, add_light, light_house

VARIABLE = "BENCHMARK_HOUSE"
STEPS = 60  # of a letters' adapter; each has one more than the one before


@dataclass(frozen=True)
class Kind:
    """How a house of a kind is made, and how it gets another release.

    `rollout`: what of a rollout's limits its releases cannot keep on two cores. `start_seconds`: in
    which a slot is back that was killed.
    """

    house: type[House]
    make: Callable[[Path, RolloutConfig], House]
    add: Callable[[House], int]
    rollout: RolloutConfig
    start_seconds: float


def _diffusion_house(folder: Path, rollout: RolloutConfig) -> House:
    (folder / "configs" / "models").mkdir(parents=True)
    (folder / "triton_models").symlink_to(ROOT / "triton_models")
    return House(Project(folder, folder / "home"), make_fleet(rollout), "cloth")


SOUND = RolloutConfig(minimum_seconds=1.0)
# What a random model says is as good as nothing, and loading an adapter takes the cores from it.
OF_LETTERS = RolloutConfig(
    minimum_seconds=1.0,
    error_rate_maximum=0.45,
    latency_increase_maximum=None,
    latency_maximum_seconds=60.0,
    promotion_quantiles=["p50"],
    quality_drop_maximum=0.9,
)
KINDS = {
    "light": Kind(House, light_house, add_light, SOUND, 120),
    "diffusion": Kind(
        House,
        _diffusion_house,
        lambda house: add_diffusion(house, len(house.releases) + 1),
        SOUND,
        120,
    ),
    "causal_lm": Kind(
        LettersHouse,
        letters_house,
        lambda house: add_letters(house, STEPS + len(house.releases)),
        OF_LETTERS,
        600,
    ),
}


def told(house: House, kind: str) -> dict[str, str]:
    """What `opened` finds in the environment of another process."""
    project = house.project
    places = {"root": str(project.root), "home": str(project.home)}
    content = {"kind": kind, "model": house.model, "fleet": house.fleet.model_dump(mode="json")}
    return {VARIABLE: json.dumps({**places, **content})}


def opened() -> House:
    """The house that the environment tells of."""
    found = json.loads(os.environ[VARIABLE])
    project = Project(Path(found["root"]), Path(found["home"]))
    fleet = FleetConfig.model_validate(found["fleet"])
    return KINDS[found["kind"]].house(project, fleet, found["model"])
