"""What a release is, and whether it draws what was evaluated."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.store import Store
from adire_assets.serving import release
from adire_assets.serving.fleet import parity
from tests.serving.conftest import MODEL, different
from tests.support.diffusion import add_diffusion
from tests.support.house import House


def test_the_live_release_draws_what_was_evaluated(served: House) -> None:
    served.ensure_live(1)
    evaluation = Store(served.project).open(served.releases[1].evaluation)
    for entry in evaluation.json("images.json"):
        answer = parity.ask(served.address, MODEL, entry, None)
        evaluated = np.asarray(Image.open(evaluation.path / entry["file"]))
        assert different(answer.images[0], evaluated) <= parity.LARGEST_DIFFERENCE


def test_parity_tells_a_release_that_draws_something_else(house: House) -> None:
    stranger = house.releases[add_diffusion(house, 1, evaluated_seed=2)]
    facts = parity.compare_on_scratch_server(house.project, stranger, "cpu", print)
    assert not facts["passed"]
    assert (facts["images"], facts["device"]) == (2, "cpu")
    here = lineage.environment("torch", "diffusers", "transformers", "peft", device="cpu")
    expected = {**here, "cuda": None, "driver": None}
    del expected["machine"]
    assert facts["software"] == expected
    assert facts["largest_difference"] > parity.LARGEST_DIFFERENCE
    assert "allowed are 2" in facts["explanation"]
    assert not list((house.project.home / "fleet" / "scratch").iterdir())


@pytest.mark.full
@pytest.mark.parametrize("architecture", ["sd2", "sdxl"])
def test_other_architectures_are_served_as_they_were_evaluated(
    house: House, architecture: Literal["sd2", "sdxl"]
) -> None:
    number = add_diffusion(house, 1, architecture=architecture)
    facts = parity.compare_on_scratch_server(house.project, house.releases[number], "cpu", print)
    assert (facts["passed"], facts["images"]) == (True, 2), facts


def test_a_release_number_stays_bound_to_its_content(house: House) -> None:
    with pytest.raises(UserError, match="release 1 of cloth is already"):
        release.write_record(
            house.project, replace(house.releases[1], repository=house.releases[2].repository)
        )
    assert release.read_record(house.project, MODEL, 1) == house.releases[1]
    with pytest.raises(UserError, match="no release 99 of cloth; releases here: 1, 2"):
        release.read_record(house.project, MODEL, 99)


def test_parity_allows_two_levels_on_the_cpu_and_little_structure_lost_elsewhere() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(10, 240, (64, 64, 3), dtype=np.uint8)
    noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    shifted = np.clip(image + rng.integers(-3, 4, image.shape), 0, 255).astype(np.uint8)
    near, far = image + np.uint8(2), image + np.uint8(3)
    for served, on_cpu, passes in [
        (near, True, True),
        (far, True, False),
        (shifted, False, True),
        (noise, False, False),
        (image[:32], True, False),
    ]:
        facts = parity.judge([(image, image), (served, image)], on_cpu=on_cpu)
        assert facts["passed"] is passes, facts
    assert not parity.judge([], on_cpu=True)["passed"]
