"""A rollout's own requests are about the release that it asks, and so is what it judges by them."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.store import write_json
from adire_assets.core.waiting import wait_until
from adire_assets.families.diffusion import FAMILY, serve
from adire_assets.serving import release
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.gateway.gateway import Gateway
from adire_assets.serving.gateway.traffic import Traffic
from adire_assets.serving.record import Rollout
from adire_assets.serving.rollout import replay
from adire_assets.serving.rollout.replay import Replay
from adire_assets.serving.rollout.watch import Watch
from tests.support.light import MODEL, add_light, light_house

ENTRIES = [
    (
        {
            "prompt": f"cloth {number}",
            "negative_prompt": "",
            "seed": number,
            "num_inference_steps": 4,
            "guidance_scale": 2.0,
        },
        1.0 + number,
    )
    for number in range(3)
]
EXPECTED = {request["prompt"]: score for request, score in ENTRIES}


class Served:
    """A gateway that draws the number of the release, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.refuses: set[int] = set()
        self.judged: list[tuple[str, int]] = []

    def ask(
        self, endpoint: Endpoint, plug: Family, model: str, request: dict[str, Any], **more: Any
    ) -> Answer:
        self.asked.append({**request, **more})
        release = more["release"]
        if release in self.refuses:
            raise UserError("busy")
        return Answer(release, {}, np.full((1, 2, 2, 3), release or 0, np.uint8))

    def judge(self, prompts: Any, images: Any) -> list[float]:
        self.judged += [
            (text, int(one[0, 0, 0, 0])) for text, one in zip(prompts, images, strict=True)
        ]
        return [float(one[0, 0, 0, 0]) for one in images]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    made = Served()
    monkeypatch.setattr(replay, "ask", made.ask)
    monkeypatch.setattr(replay, "PAUSE_SECONDS", 0.0)
    return made


@pytest.fixture
def asking(served: Served) -> Iterator[Replay]:
    made = Replay(Endpoint("127.0.0.1:1"), FAMILY, "cloth", ENTRIES, served.judge, 20.0)
    yield made
    made.close()


def ask(asking: Replay, number: int, judged: bool) -> None:
    """One request, and its answer."""
    asking.ask(number, judged)
    assert wait_until(lambda: asking.idle, 10, pause=0.001)


def collected(asking: Replay) -> None:
    """Have all that was drawn judged."""

    def done() -> bool:
        asking.collect()
        return not asking.unjudged

    assert wait_until(done, 10, pause=0.001)


def test_each_request_names_its_release_and_no_evaluated_image(
    asking: Replay, served: Served
) -> None:
    for number in (2, 1, 2, 2):
        ask(asking, number, judged=False)
    assert [one["release"] for one in served.asked] == [2, 1, 2, 2]
    assert not {one["seed"] for one in served.asked} & {entry["seed"] for entry, _ in ENTRIES}
    assert {one["prompt"] for one in served.asked} <= {entry["prompt"] for entry, _ in ENTRIES}


def test_what_is_judged_is_what_the_asked_release_drew_for_that_prompt(
    asking: Replay, served: Served
) -> None:
    for number, judged in ((2, True), (1, False), (2, True)):
        ask(asking, number, judged)
    wanted = [(one["prompt"], 2) for one in served.asked if one["release"] == 2]
    collected(asking)
    assert served.judged == wanted
    assert asking.scores == [(2.0, EXPECTED[prompt]) for prompt, _ in wanted]


def test_what_was_not_answered_is_not_judged(asking: Replay, served: Served) -> None:
    served.refuses = {2}
    ask(asking, 2, judged=True)
    served.refuses = set()
    ask(asking, 2, judged=True)
    collected(asking)
    assert served.judged == [(served.asked[1]["prompt"], 2)]
    assert len(asking.scores) == 1


def test_the_next_holder_goes_on_with_the_images_that_were_judged(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each of them would be another chance."""
    house = light_house(tmp_path / "project")
    add_light(house)
    monkeypatch.setattr(Gateway, "_traffic", lambda *_: Traffic())
    monkeypatch.setattr(Gateway, "require_ours", lambda gateway: None)
    watch = Watch(house.project, house.fleet, "local", MODEL, lambda _: nullcontext(served.judge))
    judged = [(0.9, 1.0), (1.1, 1.0), (0.95, 1.0)]
    begun = Rollout(1, None, "blue", "canary", [100], stage="serving", judged=judged)
    begun = replace(begun, **watch.begin_step(begun))
    try:
        found, kept = watch.look(begun)
        assert kept["judged"] == watch.begin_step(begun)["judged"] == judged
    finally:
        watch.close()
    [quality] = [one for one in found.findings if one.name == "quality"]
    assert quality.sentence.startswith("3 served images score a CLIP-S of 0.983")


@pytest.mark.parametrize("streams", [False, True])
def test_the_pieces_of_streams_are_judged_where_a_release_has_streams(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    house = light_house(tmp_path / "project")
    for _ in range(2):
        add_light(house)
    release.write_record(house.project, replace(house.releases[2], streams=streams))
    monkeypatch.setattr(Gateway, "_traffic", lambda *_: Traffic())
    monkeypatch.setattr(Gateway, "require_ours", lambda gateway: None)
    watch = Watch(house.project, house.fleet, "local", MODEL, lambda _: nullcontext(served.judge))
    begun = Rollout(2, 1, "blue", "canary", [5, 100], stage="serving")
    try:
        found, _ = watch.look(replace(begun, **watch.begin_step(begun)))
    finally:
        watch.close()
    assert ("first_token" in found.numbers) is streams


def test_an_evaluation_that_nothing_can_be_compared_with_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = light_house(tmp_path / "project")
    add_light(house)
    monkeypatch.setattr(Gateway, "_traffic", lambda *_: Traffic())
    monkeypatch.setattr(Gateway, "require_ours", lambda gateway: None)
    monkeypatch.setattr(
        serve, "expected", lambda evaluation: [0.0] * len(serve.requests(evaluation))
    )
    watch = Watch(house.project, house.fleet, "local", MODEL, lambda _: nullcontext(lambda *_: []))
    begun = Rollout(1, None, "blue", "canary", [100], stage="serving")
    try:
        with pytest.raises(
            UserError,
            match=r"no evaluated image of release 1 of light has a CLIP-S above 0, .*adire report",
        ):
            watch.look(replace(begun, **watch.begin_step(begun)))
    finally:
        watch.close()


def test_what_is_expected_of_an_image_is_the_mean_of_its_prompt(tmp_path: Path) -> None:
    asked = dict.fromkeys(serve.EVALUATED, 1)
    prompts = ("rings", "waves", "rings")
    write_json(tmp_path / "images.json", [{**asked, "prompt": one, "file": ""} for one in prompts])
    scores = [{"clip_s": 1.0}, {"clip_s": None}, {"clip_s": 2.0}]
    write_json(tmp_path / "report.json", {"per_image": scores})
    assert serve.expected(tmp_path) == [1.5, 0.0, 1.5]
    assert serve.requests(tmp_path)[1] == {**asked, "prompt": "waves"}
