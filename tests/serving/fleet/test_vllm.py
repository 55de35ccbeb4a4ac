"""Real engines behind the real gateway: a random language model, its adapters, and real clients."""

import json
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import openai
import psutil
import pytest
from langchain_openai import ChatOpenAI
from safetensors.torch import load_file, save_file

from adire_assets.config.fleet import RolloutConfig
from adire_assets.core.errors import UserError
from adire_assets.core.waiting import wait_until
from adire_assets.serving import client as client_of_ours
from adire_assets.serving import release
from adire_assets.serving.client import ask
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.fleet import guard, parity
from adire_assets.serving.release import family_of_release
from adire_assets.serving.slot_server import server_of
from tests.support.letters_house import MODEL, LettersHouse, add_letters, letters_house
from tests.support.malformed_chats import CHAT, malformed_chat

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]
HI = [{"role": "user", "content": "Write to Ada."}]
ROLLOUT = RolloutConfig(
    steps=[50, 100],
    minimum_seconds=0.0,
    error_rate_maximum=0.45,
    latency_increase_maximum=None,
    latency_maximum_seconds=60.0,
    promotion_quantiles=["p50"],
    quality_drop_maximum=0.9,  # what a random model draws is as good as nothing
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LettersHouse]:
    """Release 1 is live, 2 is another one; an engine takes minutes to start, so there are two."""
    made = letters_house(tmp_path_factory.mktemp("letters") / "project", ROLLOUT)
    add_letters(made, 60)
    add_letters(made, 64)
    with made.up():
        made.deploy(1)
        yield made


def post(house: LettersHouse, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["content-type"] = "application/json"
    request = urllib.request.Request(f"http://{house.address}{path}", body, named)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def client(house: LettersHouse) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{house.address}/v1", api_key="none", max_retries=0)


def test_the_release_repeats_its_evaluation_and_says_where_it_comes_from(
    house: LettersHouse,
) -> None:
    assert house.differences() == []
    record = house.releases[1]
    facts = parity.compare_at(house.project, record, house.address, print)
    assert facts["passed"] and facts["equal"] == 2, facts
    request = {"prompt": "Write to Ada.", "max_tokens": 4, "temperature": 0.0}
    answer = ask(house.address, family_of_release(house.project, record), MODEL, request)
    assert answer.release == 1 and isinstance(answer.content, str)
    assert answer.provenance["release_hash"] == record.repository["content_hash"]
    assert answer.provenance["software"]["vllm"]


def test_the_idle_slot_checks_a_release_and_keeps_what_it_holds(house: LettersHouse) -> None:
    facts = parity.compare_in_idle_slot(house.project, house.fleet, house.releases[2], print)
    assert facts and facts["passed"], facts
    assert house.differences() == []


def test_openai_and_langchain_are_answered_whole_and_streamed(house: LettersHouse) -> None:
    asked = client(house)
    assert {one.id for one in asked.models.list()} == {"letters", "letters@1"}
    settings = {"model": MODEL, "messages": HI, "max_tokens": 8, "temperature": 0, "seed": 1}
    whole = asked.chat.completions.create(**settings)
    assert (whole.model, whole.usage.completion_tokens) == ("letters@1", 8)
    with asked.chat.completions.create(**settings, stream=True) as stream:
        events = [one for one in stream if one.choices]
    pieces = [one.choices[0].delta.content or "" for one in events]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 4
    told = [one.model_extra["provenance"] for one in (whole, events[-1])]
    assert told[0]["release_hash"] == told[1]["release_hash"] and told[1]["release"] == 1
    plug, given = family_of_release(house.project, house.releases[1]), {"prompt": "Write to Ada."}
    said = client_of_ours.stream(
        Endpoint(house.address), plug, MODEL, {**given, "max_tokens": 8, "temperature": 0.0}
    )
    ours = list(said)
    assert "".join(one.content for one in ours) == whole.choices[0].message.content
    assert ours[0].provenance["release_hash"] == told[0]["release_hash"] and len(ours) > 4
    drawn = asked.completions.create(model="letters@1", prompt="Dear", max_tokens=3)
    assert drawn.choices[0].finish_reason == "length"
    with pytest.raises(openai.NotFoundError, match="not loaded; loaded: 1"):
        asked.chat.completions.create(**{**settings, "model": "letters@7"})
    with pytest.raises(openai.BadRequestError, match="n is out of range"):
        asked.chat.completions.create(**settings, n=99)
    chain = ChatOpenAI(
        base_url=f"http://{house.address}/v1", api_key="none", model=MODEL, max_tokens=8
    ).bind(temperature=0, seed=1)
    assert chain.invoke("Write to Ada.").content == whole.choices[0].message.content
    assert "".join(one.content for one in chain.stream("Write to Ada.")) == (
        whole.choices[0].message.content
    )


def test_a_canary_goes_live_beside_streams_and_comes_back(house: LettersHouse) -> None:
    asked = client(house)
    settings = {"model": MODEL, "messages": HI, "max_tokens": 4, "temperature": 0}
    assert house.deploy(2).live == 2
    assert asked.chat.completions.create(**settings).model == "letters@2"
    pinned = asked.chat.completions.create(**settings, extra_headers={"x-model-release": "2"})
    assert pinned.model == "letters@2"
    assert house.roll_back().live == 1
    assert asked.chat.completions.create(**settings).model == "letters@1"


def test_a_release_that_is_loaded_breaks_no_stream_of_the_slot(house: LettersHouse) -> None:
    slot = house.slot_client(house.record.active or "")
    reconcile = server_of(slot.config).reconcile
    asked = openai.OpenAI(
        base_url=f"http://127.0.0.1:{slot.config.http_port}/v1", api_key="none", max_retries=0
    )
    pids, over = {one.pid for one in engines(house)}, threading.Event()

    def use(seed: int) -> set[str]:
        """How the answers ended."""
        ends = set()
        while not over.is_set():
            with asked.chat.completions.create(
                model="letters@1", messages=HI, max_tokens=64, seed=seed, stream=True
            ) as stream:
                ends.add([one.choices[0].finish_reason for one in stream][-1])
        return ends

    with ThreadPoolExecutor(3) as pool:
        users = [pool.submit(use, seed) for seed in range(3)]
        try:
            for _ in range(5):
                release.install(house.project, house.releases[2], slot.folder)
                assert reconcile(slot.config, slot.folder, MODEL, 60) == {1, 2}
                release.remove(slot.folder, MODEL, 2)
                assert reconcile(slot.config, slot.folder, MODEL, 60) == {1}
        finally:
            over.set()
        assert all(user.result() <= {"stop", "length"} for user in users)
    assert {one.pid for one in engines(house)} == pids


def test_an_adapter_under_other_names_does_not_come_live(house: LettersHouse) -> None:
    """A vLLM takes it without a word, and answers as the base does."""

    def rename(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        found = load_file(path)
        save_file({name.replace(".layers.", ".blocks."): one for name, one in found.items()}, path)

    number = add_letters(house, 60, spoil=rename)
    with pytest.raises(UserError, match=f"could not load letters@{number}: "):
        house.deploy(number)
    assert house.record.live == 1
    assert house.slot_client("teal").ready(MODEL) | house.slot_client("violet").ready(MODEL) == {1}


def test_an_adapter_with_other_weights_does_not_pass_the_check(house: LettersHouse) -> None:
    def turn(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file(
            {name: -one for name, one in load_file(path).items() if "lora_A" in name}
            | {name: one for name, one in load_file(path).items() if "lora_B" in name},
            path,
        )

    number = add_letters(house, 60, spoil=turn)
    state = house.deploy(number)
    assert state.live == 1 and state.last_rollout
    assert "evaluated answers are repeated" in state.last_rollout["reason"]


def test_a_thousand_malformed_requests_leave_the_engine_alive(house: LettersHouse) -> None:
    rng, pids = random.Random(7), {one.pid for one in engines(house)}
    malformed = [malformed_chat(rng, MODEL) for _ in range(1000)]
    statuses: dict[int, int] = {}
    with ThreadPoolExecutor(4) as pool:  # some of them in one batch
        answers = [*pool.map(lambda one: post(house, *one), malformed)]
    for status, body in answers:
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500, body
        assert status == 200 or json.loads(body)["error"], body
    huge = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * 10**7}]})
    with suppress(ConnectionError, urllib.error.URLError):  # refused while it is still being sent
        assert post(house, CHAT, huge.encode())[0] == 413
    long = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * 500_000}]})
    assert post(house, CHAT, long.encode())[0] == 400
    assert statuses.get(400, 0) + statuses.get(404, 0) > 600, statuses
    assert {one.pid for one in engines(house)} == pids
    assert ask_once(house) == "letters@1"


def test_a_killed_engine_costs_no_request_and_comes_back_as_it_was(house: LettersHouse) -> None:
    active = house.record.active
    assert active
    before = {one.pid for one in engines(house, active)}
    [core] = [one for one in engines(house, active) if "EngineCore" in one.cmdline()[0]]
    core.kill()
    assert {ask_once(house) for _ in range(10)} == {"letters@1"}
    slot = house.slot_client(active)
    assert wait_until(lambda: bool({one.pid for one in engines(house, active)} - before), 600)
    slot.wait()
    assert slot.ready(MODEL) == {1}
    slot.require_answer(house.releases[1])


def ask_once(house: LettersHouse) -> str:
    body = {"model": MODEL, "messages": HI, "max_tokens": 2}
    status, answer = post(house, CHAT, json.dumps(body).encode())
    assert status == 200, answer
    return json.loads(answer)["model"]


def engines(house: LettersHouse, name: str | None = None) -> list[psutil.Process]:
    """The processes of a slot's engine, or of all."""
    names = [name] if name else list(house.fleet.targets["local"].slots)
    return [
        process
        for one in names
        for process in guard.with_variable(guard.MARK, guard.mark(house.slot_client(one).folder))
    ]
