"""OpenAI's interface at the real Envoy's door, before two servers that stand for vLLMs."""

import json
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from adire_assets.core.family import Family
from adire_assets.core.waiting import wait_until
from adire_assets.serving import client
from adire_assets.serving.connection import Endpoint, Unanswered
from adire_assets.serving.gateway.protocols import openai_client
from adire_assets.serving.gateway.served import ServedModel
from tests.support.chat import ChatServer
from tests.support.running_gateway import MODEL, RunningGateway, before

CHAT, COMPLETION, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
HI = [{"role": "user", "content": "hi"}]
LARGEST = 2**17


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    root = tmp_path_factory.mktemp("openai")
    settings = {"maximum_request_bytes": LARGEST, "sticky_header": "x-session"}
    with (
        ChatServer(1) as blue,
        ChatServer(2) as green,
        before(root, blue, green, server="vllm", **settings) as made,
    ):
        publish(made, {1: 100})
        assert wait_until(lambda: made.http(CHAT, chat())[0] == 200, 20)
        yield made


@pytest.fixture(autouse=True)
def sound(door: RunningGateway) -> None:
    door.blue.status = door.green.status = 200
    publish(door, {1: 100})


def publish(made: RunningGateway, weights: dict[int, int]) -> None:
    made.gateway.publish([ServedModel(MODEL, {1: "blue", 2: "green"}, weights)])


def chat(model: Any = MODEL, **more: Any) -> bytes:
    return json.dumps({"model": model, "messages": HI, **more}, ensure_ascii=False).encode()


def answers(door: RunningGateway, count: int, body: bytes, **headers: str) -> Counter:
    return Counter(door.http(CHAT, body, **headers)[1]["release"] for _ in range(count))


def test_shares_a_named_release_and_a_session_lead_to_a_release(door: RunningGateway) -> None:
    publish(door, {1: 50, 2: 50})
    assert set(answers(door, 40, chat())) == {1, 2}
    assert set(answers(door, 10, chat("cloth@2"))) == {2}
    assert set(answers(door, 10, chat(), x_model_release="1")) == {1}
    assert len(answers(door, 10, chat(), x_session="ada")) == 1
    completion = json.dumps({"model": "cloth@2", "prompt": "hi"}).encode()
    assert door.http(COMPLETION, completion)[1]["release"] == 2
    assert door.http(MODELS)[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (chat("cloth@9"), 404),
        (chat("silk"), 404),
        (chat("../cloth"), 404),
        (chat("cloth@"), 400),
        (chat("cloth@x"), 404),
        (chat(7), 400),
        (chat(None), 400),
        (chat(""), 400),
        (b"", 400),
        (b"[]", 400),
        (b"\xff", 400),
        (chat() + b"x", 400),
        (chat().replace(b"hi", b"h\x00i"), 400),
        (b'{"model": "cloth", "model": "silk"}', 400),
        (chat(text="x" * LARGEST), 413),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(
    door: RunningGateway, body: bytes, status: int
) -> None:
    before, asked = door.counted(1), door.http(CHAT, body)
    assert asked[0] == status and len(asked[1]["error"]["message"]) > 10
    assert door.counted(1).since(before).failed == 0


def test_a_long_prompt_passes(door: RunningGateway) -> None:
    assert door.http(CHAT, chat(text="染" * 30_000))[0] == 200


def test_what_is_not_for_clients_is_closed(door: RunningGateway) -> None:
    for path in (
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/metrics", "/docs", "/health"),
        *("/adire/reconcile", "/adire/held", "/tokenize", "/openapi.json", "/v1/models/cloth"),
        *(
            "/v1/chat/completions/render",
            "/v1//chat/../load_lora_adapter",
            "/inference/v1/generate",
        ),
    ):
        for body in (None, chat()):
            assert door.http(path, body)[0] == 404, path
    assert door.http(CHAT)[0] == door.http(MODELS, chat())[0] == 405


def test_this_project_asks_by_its_own_client(door: RunningGateway) -> None:
    """The stand-in's answer has no provenance, so it is none of a release."""
    functions = SimpleNamespace(inputs=dict, content=dict)
    plug = cast(
        Family, SimpleNamespace(protocols=("openai",), serve=SimpleNamespace(functions=functions))
    )
    with pytest.raises(client.UserError, match="lacks 'provenance'"):
        client.ask(door.gateway.address, plug, MODEL, {"messages": HI}, None)
    endpoint = Endpoint(door.gateway.address)
    for status, name in ((400, "INVALID_ARGUMENT"), (500, "INTERNAL"), (503, "UNAVAILABLE")):
        door.blue.status = status
        with pytest.raises(Unanswered) as caught:
            openai_client.ask(endpoint, MODEL, {"messages": HI}, 1, 20)
        assert caught.value.status == name
    with pytest.raises(Unanswered, match=r"does not serve this.*loaded: 1, 2") as caught:
        openai_client.ask(endpoint, MODEL, {"messages": HI}, 9, 20)
    with pytest.raises(Unanswered, match=r"no server answers at 127\.0\.0\.1:1;") as caught:
        openai_client.ask(Endpoint("127.0.0.1:1"), MODEL, {"messages": HI}, None, 5)
    assert caught.value.status == "UNAVAILABLE"
