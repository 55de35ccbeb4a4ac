"""What an answer of OpenAI's interface shows on its way through the real Envoy, by release."""

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from urllib.request import urlopen

import pytest

from adire_assets.core.waiting import wait_until
from adire_assets.serving.gateway.served import ServedModel
from adire_assets.serving.gateway.traffic import Histogram, Traffic, histogram_total
from adire_assets.serving.rollout.limits import count_slower
from tests.support.chat import ChatServer
from tests.support.promtool import SHOWN, recorded
from tests.support.running_gateway import MODEL, RunningGateway, before

CHAT = "/v1/chat/completions"
TOLD = '"finish_reason": "length" data: {'  # what a text says is not what its answer says


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    root = tmp_path_factory.mktemp("answers")
    with (
        ChatServer(1) as blue,
        ChatServer(2) as green,
        before(root, blue, green, server="vllm") as made,
    ):
        publish(made, {1: 100})
        assert wait_until(lambda: made.http(CHAT, body(False))[0] == 200, 20)
        yield made


@pytest.fixture(autouse=True)
def sound(door: RunningGateway) -> None:
    for server in (door.blue, door.green):
        server.status, server.cut, server.seconds = 200, None, 0.0
        server.reason, server.text = "stop", "indigo"


def publish(made: RunningGateway, weights: dict[int, int], **more: tuple[int, int]) -> None:
    served = ServedModel(MODEL, {1: "blue", 2: "green"}, weights, **more)  # type: ignore[arg-type]
    made.gateway.publish([served])


def body(streamed: bool) -> bytes:
    return json.dumps({"model": MODEL, "messages": [], "stream": streamed}).encode()


def ask(door: RunningGateway, count: int = 1, *, streamed: bool = True, **headers: str) -> None:
    """So many answers, each read to its end or to where it breaks off."""
    for _ in range(count):
        connection = http.client.HTTPConnection(door.gateway.address, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", CHAT, body(streamed), named)
        with suppress(http.client.IncompleteRead):
            connection.getresponse().read()
        connection.close()


def shown(
    door: RunningGateway, before: Traffic, number: int, ended: int, streams: int = 0
) -> Traffic:
    """What a release has shown since `before`, as soon as so many answers, of which so many are
    streams, are there; histograms are a moment later than counts."""

    def since() -> Traffic:
        return door.gateway.traffic(MODEL, number).since(before)

    def there() -> bool:
        found = since()
        whole = histogram_total(found.latency) >= ended
        return found.ended == ended and whole and histogram_total(found.inter_token) == streams

    assert wait_until(there, 20), since()
    return since()


def slower(histogram: Histogram, milliseconds: float) -> int:
    return count_slower(histogram, milliseconds)[1]


def test_a_stream_shows_when_its_tokens_came_and_a_whole_answer_does_not(
    door: RunningGateway,
) -> None:
    publish(door, {2: 100})
    start = door.gateway.traffic(MODEL, 2)
    door.green.seconds = 0.08
    ask(door, 3)
    door.green.seconds = 0.0
    ask(door, 4, streamed=False)
    found = shown(door, start, 2, ended=7, streams=3)
    # Each of five pieces takes 80 ms; the head of this server does not wait for the first one.
    assert histogram_total(found.first_token) == 3
    assert slower(found.inter_token, 70) == 3 and slower(found.first_token, 900) == 0
    assert found.cut_off == 0 and histogram_total(found.latency) == 7
    assert door.gateway.traffic(MODEL, 1).first_token == ()


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_as_long_as_allowed_is_cut_off_whatever_its_text_says(
    door: RunningGateway, streamed: bool
) -> None:
    publish(door, {1: 100})
    start = door.gateway.traffic(MODEL, 1)
    door.blue.text = TOLD
    ask(door, 3, streamed=streamed)
    assert shown(door, start, 1, ended=3, streams=3 * streamed).cut_off == 0
    door.blue.reason = "length"
    ask(door, 2, streamed=streamed)
    found = shown(door, start, 1, ended=5, streams=5 * streamed)
    assert found.cut_off == 2
    assert histogram_total(found.first_token) == 5 * streamed


def test_what_breaks_off_or_is_refused_has_no_end(door: RunningGateway) -> None:
    publish(door, {1: 100})
    start = door.gateway.traffic(MODEL, 1)
    door.blue.cut = 3
    ask(door, 2)
    door.blue.cut, door.blue.status = None, 400
    ask(door, 2)
    door.blue.status = 200
    ask(door)
    shown(door, start, 1, ended=1, streams=1)

    def counted() -> tuple[int, int, float]:
        found = door.gateway.traffic(MODEL, 1).since(start)
        return found.failed, found.refused, histogram_total(found.first_token)

    assert wait_until(lambda: counted() == (2, 2, 3), 20), counted()


def test_a_named_release_and_the_copies_of_requests_are_counted_apart(
    door: RunningGateway,
) -> None:
    publish(door, {1: 100}, mirrored=(2, 100))
    start, users = door.gateway.pinned_traffic(MODEL, 2), door.gateway.traffic(MODEL, 2)
    door.green.reason = "length"
    ask(door, 2)

    def copies() -> Traffic:
        return door.gateway.pinned_traffic(MODEL, 2).since(start)

    assert wait_until(lambda: copies().ended == 2 == histogram_total(copies().inter_token), 20)
    ask(door, x_model_release="2")
    assert wait_until(lambda: copies().cut_off == 3 == histogram_total(copies().first_token), 20)
    assert door.gateway.traffic(MODEL, 2).since(users).ended == 0


def test_prometheus_finds_the_names_that_its_rules_use(door: RunningGateway) -> None:
    publish(door, {1: 100})
    start = door.gateway.traffic(MODEL, 1)
    ask(door)
    shown(door, start, 1, ended=1, streams=1)
    address = f"http://127.0.0.1:{door.gateway.config.admin_port}/stats/prometheus"
    with urlopen(address, timeout=20) as answer:
        exposed = answer.read().decode()
    labelled = f'{{cluster="{MODEL}-1-openai"'
    used = re.findall(r"\benvoy_adire_\w+", " ".join(recorded().values()))
    names = {one for one in used if re.match(SHOWN, one)}
    assert len(names) == 5
    for name in names:
        assert f"\n{name}{labelled}" in exposed, name
