"""The quality of answers that users got, measured as they pass the gateway of a real fleet."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from adire_assets.core.child_environment import child_environment
from adire_assets.core.errors import UserError
from adire_assets.families.diffusion import FAMILY
from adire_assets.monitoring import quality
from adire_assets.serving.client import stream
from adire_assets.serving.gateway import tap
from adire_assets.serving.gateway.gateway import GatewayDown
from tests.serving.conftest import MODEL
from tests.support.asking import generate
from tests.support.diffusion import PROMPTS
from tests.support.fleets import write_fleet
from tests.support.house import TARGET, House, awaited

SIGNALS = {"clip_s", "nsfw"} | {
    f"{kind}_{name}" for kind in ("prompt", "image") for name in ("distance", 1, 2, 3, 4)
}


@pytest.fixture(scope="module")
def watched(served: House) -> Iterator[House]:
    """The house with release 1 live, whose answers are all measured."""
    served.ensure_live(1)
    environment = child_environment(
        ADIRE_PROJECT=str(served.project.root), ADIRE_HOME=str(served.project.home)
    )
    write_fleet(served.project, served.fleet)
    command = [sys.executable, "-m", "adire_assets.cli", "quality", TARGET, "1"]
    watching = subprocess.Popen(command, env=environment, cwd=served.project.root)
    try:
        yield served
        assert watching.poll() is None
    finally:
        watching.kill()
        watching.wait()
        (served.project.root / "configs" / "fleet.yaml").unlink()


def measured(house: House, release: int = 1) -> quality.ReleaseQuality:
    return quality.read(house.project, TARGET, MODEL, release)


def until_measured(house: House, count: int, ask: Callable[[], object]) -> None:
    """Ask until so many more answers are measured: the tap may be just opening."""
    before = measured(house).answers

    def enough() -> bool:
        ask()
        return measured(house).answers >= before + count

    awaited(enough, 180)  # the first time, the judge is loaded


def test_users_answers_are_measured_and_not_kept(watched: House) -> None:
    prompt = "indigo circles with a most secret word"
    until_measured(watched, 2, lambda: generate(watched.address, MODEL, prompt, seed=3))
    found = measured(watched)
    assert {*found.series} <= SIGNALS
    assert {*found.series} >= {"clip_s", "nsfw", "prompt_distance", "image_distance", "image_1"}
    assert found.changes() == {}
    awaited(lambda: len([*quality.sentences(watched.project, TARGET, MODEL, 1)]) == 1, 30)
    [line] = quality.sentences(watched.project, TARGET, MODEL, 1)
    assert "answers measured; means of the last 50: clip_s " in line
    for path in (watched.project.home / "quality").rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes()


def test_an_evaluated_prompt_is_no_distance_away(watched: House) -> None:
    until_measured(watched, 1, lambda: generate(watched.address, MODEL, "a cow on the moon"))
    assert max(measured(watched).series["prompt_distance"].last) > 0.01

    def near() -> bool:
        generate(watched.address, MODEL, PROMPTS[0])
        return min(measured(watched).series["prompt_distance"].last) < 1e-5

    awaited(near, 60)


def over_http(house: House) -> None:
    prompt = {"name": "prompt", "datatype": "BYTES", "shape": [1, 1], "data": ["crosses"]}
    body = json.dumps({"inputs": [prompt]}).encode()
    url = f"http://{house.address}/v2/models/{MODEL}/infer"
    urllib.request.urlopen(urllib.request.Request(url, body)).read()


def streamed(house: House) -> None:
    assert [*stream(house.address, FAMILY, MODEL, {"prompt": "crosses"})][-1].content is not None


@pytest.mark.parametrize("ask", [over_http, streamed])
def test_answers_over_http_and_in_streams_are_measured_too(
    watched: House, ask: Callable[[House], None]
) -> None:
    until_measured(watched, 1, lambda: ask(watched))


def test_requests_that_name_their_release_are_left_out(watched: House) -> None:
    before = measured(watched).answers
    for _ in range(3):
        generate(watched.address, MODEL, "indigo circles", release=1)
    until_measured(watched, 1, lambda: generate(watched.address, MODEL, "crosses"))
    assert measured(watched).answers <= before + 3


def test_what_is_no_share_is_refused(served: House) -> None:
    with pytest.raises(UserError, match="the share is 2; give one above 0, up to 1"):
        quality.watch(served.project, served.fleet, TARGET, 2.0, print)


def test_a_second_process_is_told_that_the_tap_is_taken(watched: House) -> None:
    until_measured(watched, 1, lambda: generate(watched.address, MODEL, "crosses"))
    with pytest.raises(GatewayDown, match="one process at a time"):
        next(tap.traces(watched.gateway, 0.5))
