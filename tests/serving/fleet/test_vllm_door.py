"""The middleware before a vLLM, with an app in its place: releases, answers, what is counted."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from adire_vllm import launcher, series
from adire_vllm.middleware import Door
from prometheus_client import REGISTRY

from adire_assets.core import answer_token
from adire_assets.core.project import Project
from adire_assets.serving import answer_keys
from tests.support.fake_engine import FakeEngine, install

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


class Opened:
    """A door before a fake engine, on a slot's folder."""

    def __init__(self, slot: Path, engine: FakeEngine) -> None:
        self.engine, self.door, self.slot = engine, Door(engine), slot
        self.told: list[dict[str, Any]] = []
        asyncio.run(self._live())

    async def _live(self) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            self.told.append(message)

        await self.door({"type": "lifespan", "app": None}, receive, send)

    def ask(
        self, path: str, body: Any = None, method: str = "POST", **headers: str
    ) -> tuple[int, dict[bytes, bytes], bytes, bool]:
        """(status, headers, body, whether it has an end)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent: list[Any] = []
        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if given:
                await asyncio.Event().wait()
            given = True
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        named = [(name.replace("_", "-").encode(), v.encode()) for name, v in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": named, "app": None}
        try:
            asyncio.run(self.door(scope, receive, send))
        except RuntimeError as error:
            assert str(error) == "the engine is dead"
        if not sent:
            return 500, {}, b"", False
        parts = [one.get("body", b"") for one in sent[1:]]
        return (
            sent[0]["status"],
            dict(sent[0]["headers"]),
            b"".join(parts),
            not sent[-1].get("more_body"),
        )

    def chat(self, **more: Any) -> tuple[int, dict[bytes, bytes], bytes, bool]:
        return self.ask(CHAT, {"model": "letters", "messages": HI, **more})

    def reconcile(self, model: str = "letters") -> dict[str, Any]:
        return json.loads(self.ask("/adire/reconcile", {"model": model})[2])


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(launcher.SLOT, str(tmp_path))
    monkeypatch.setenv(launcher.DEVICE, "cpu")
    install(tmp_path, 1)
    return tmp_path


@pytest.fixture
def opened(slot: Path) -> Opened:
    return Opened(slot, FakeEngine())


def counted_of(model: str, release: str) -> float:
    labels = {"model": model, "release": release}
    return REGISTRY.get_sample_value("adire_busy_seconds_total", labels) or 0.0


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": "letters", "release": "1", **labels}) or 0.0


def test_what_the_folder_holds_is_loaded_before_the_engine_is_ready(opened: Opened) -> None:
    folder = opened.slot / "models" / "letters" / "1" / "adapter"
    assert opened.engine.loaded == {"letters@1": str(folder)}
    assert opened.told == [{"type": "lifespan.startup.complete"}]
    assert opened.ask("/adire/ready/letters", method="GET")[0] == 200
    assert opened.ask("/adire/ready/silk", method="GET")[0] == 503


def test_a_plain_name_is_the_release_that_the_gateway_chose(opened: Opened) -> None:
    install(opened.slot, 2)
    assert opened.reconcile()["held"] == [1, 2]
    cases: list[tuple[dict[str, Any], dict[str, str], str]] = [
        ({}, {}, "letters@2"),
        ({}, {"x_adire_release": "1"}, "letters@1"),
        ({}, {"x_adire_release": "7"}, "letters@2"),  # it stands in for another slot
        ({}, {"x_model_release": "1"}, "letters@1"),
        ({"model": "letters@1"}, {}, "letters@1"),
    ]
    for body, headers, name in cases:
        asked = {"model": "letters", "messages": HI, **body}
        status, told, answer, _ = opened.ask(CHAT, asked, **headers)
        number = name.rpartition("@")[2]
        assert (status, told[b"x-adire-release"].decode()) == (200, number)
        assert opened.engine.asked[-1]["model"] == json.loads(answer)["model"] == name
        assert told[b"x-adire-manifest"].decode() == f"letters{number}"
    assert opened.ask(CHAT, {"model": "letters@3", "messages": HI})[0] == 404
    assert opened.ask(CHAT, {"model": "letters", "messages": HI}, x_model_release="3")[0] == 404
    cards = json.loads(opened.ask("/v1/models", method="GET")[2])["data"]
    assert [one["id"] for one in cards] == ["letters", "letters@1", "letters@2"]


def test_a_plain_name_is_the_newest_release_in_whatever_order_they_were_loaded(slot: Path) -> None:
    for number in range(2, 9):
        install(slot, number)
    assert json.loads(Opened(slot, FakeEngine()).chat()[2])["model"] == "letters@8"


def test_a_release_leaves_with_its_folder_and_others_stay(opened: Opened) -> None:
    install(opened.slot, 2)
    opened.reconcile()
    (opened.slot / "models" / "letters" / "1").rename(opened.slot / "gone")
    assert opened.reconcile()["held"] == [2]
    assert opened.engine.unloaded == ["letters@1"] and list(opened.engine.loaded) == ["letters@2"]


def test_an_adapter_that_the_engine_ignores_is_not_served(slot: Path) -> None:
    opened = Opened(slot, FakeEngine(ignored={"letters@2"}))
    install(slot, 2)
    told = opened.reconcile()
    assert told["held"] == [1] and "answers as its base does" in told["failed"]["letters@2"]
    assert opened.engine.unloaded == ["letters@2"]


def test_another_base_starts_the_engine_again_or_is_refused(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("adire_vllm.engine.ANSWER_SECONDS", 0.0)
    monkeypatch.setattr("os._exit", ended.append)
    install(opened.slot, 1, model="silk", base="other")
    told = opened.reconcile("silk")
    assert not told["again"] and "another base model" in told["failed"]["silk@1"]
    assert "letters" in told["failed"]["silk@1"]
    install(opened.slot, 2, base="other")
    assert opened.reconcile()["again"]
    chosen = json.loads((opened.slot / "engine.json").read_text())["base"]
    assert chosen == str(opened.slot / "base_models" / "other")


def test_a_name_is_never_given_to_other_weights(opened: Opened) -> None:
    install(opened.slot, 1, content="other")
    assert opened.reconcile()["again"]


def test_an_answer_says_what_it_comes_from(opened: Opened) -> None:
    before = counted("adire_llm_requests_total", outcome="answered")
    answer = json.loads(opened.chat(max_tokens=5, temperature=0)[2])
    told = answer["provenance"]
    assert (told["release"], told["device"]) == (1, "cpu")
    assert told["request"] == {"messages": HI, "max_tokens": 5, "temperature": 0}
    assert answer["system_fingerprint"] == "letters1"
    assert counted("adire_llm_requests_total", outcome="answered") == before + 1


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("how", ["off", "refuse"])
def test_an_answer_has_a_token_that_names_what_it_says(
    slot: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, streamed: bool
) -> None:
    install(slot, 1, moderation=how, moderation_words=["Ada"] if how == "refuse" else [])
    opened = Opened(slot, FakeEngine(text="three cloths é for Ada"))
    project = Project(tmp_path, tmp_path / "home")
    assert answer_token.FIELD not in json.loads(opened.chat()[2])["provenance"]
    answer_keys.ensure(project)
    for name, value in answer_keys.environment(project).items():
        monkeypatch.setenv(name, value)
    body = opened.chat(stream=streamed)[2]
    events = [json.loads(one.removeprefix(b"data: ")) for one in body.split(b"\n\n") if b"{" in one]
    said = [
        choice.get("delta", choice.get("message")) for one in events for choice in one["choices"]
    ]
    text = "".join(one.get("content", "") for one in said)
    [told] = [one["provenance"] for one in events if "provenance" in one]
    claims = answer_token.verify(answer_keys.read(project), told[answer_token.FIELD])
    assert (claims.model, claims.release) == ("letters", 1)
    assert claims.contents == (answer_token.digest(text.encode()),) and text
    assert ("Ada" in text) is (how == "off")


def test_a_stream_is_passed_on_and_its_head_waits_for_the_first_piece(opened: Opened) -> None:
    first = counted("adire_llm_first_token_seconds_count")
    between = counted("adire_llm_inter_token_seconds_count")
    status, headers, body, ended = opened.chat(stream=True)
    assert (status, ended, headers[b"x-adire-release"]) == (200, True, b"1")
    assert body.count(b"data: ") == 5 and body.endswith(b"data: [DONE]\n\n")
    last = json.loads(body.split(b"\n\n")[3].removeprefix(b"data: "))
    assert (last["system_fingerprint"], last["provenance"]["release"]) == ("letters1", 1)
    assert last["provenance"]["request"]["messages"] == HI and body.count(b"provenance") == 1
    assert counted("adire_llm_first_token_seconds_count") == first + 1
    assert counted("adire_llm_inter_token_seconds_count") == between + 3
    opened.engine.breaks = (0, "error")
    status, headers, body, ended = opened.chat(stream=True)
    # Nothing was sent before it: the gateway may ask elsewhere.
    assert (status, headers[b"x-adire-retry"], ended) == (503, b"1", True)


@pytest.mark.parametrize("how", ["error", "raise", "end"])
def test_a_stream_that_breaks_says_so_and_has_no_end(opened: Opened, how: str) -> None:
    before = counted("adire_llm_requests_total", outcome="broken")
    opened.engine.breaks = (2, how)
    _, _, body, ended = opened.chat(stream=True)
    assert not ended and b"[DONE]" not in body
    last = json.loads(body.strip().split(b"\n\n")[-1].removeprefix(b"data: "))
    assert "broke off" in last["error"]["message"]
    assert counted("adire_llm_requests_total", outcome="broken") == before + 1


def test_failures_and_mistakes_are_told_apart(opened: Opened) -> None:
    for status, outcome in ((400, "refused"), (500, "failed")):
        before = counted("adire_llm_requests_total", outcome=outcome)
        opened.engine.status = status
        assert opened.chat()[0] == status
        assert counted("adire_llm_requests_total", outcome=outcome) == before + 1


@pytest.mark.parametrize("asked", [True, False])
def test_the_tokens_of_an_answer_are_counted_for_its_release(opened: Opened, asked: bool) -> None:
    made, busy = (
        partial(counted, name) for name in ("adire_made_total", "adire_busy_seconds_total")
    )
    before, computed = made(unit="token"), busy()
    opened.engine.seconds = 0.02
    opened.chat()
    assert made(unit="token") == before + 4
    options = {"stream_options": {"include_usage": True}} if asked else {}
    body = opened.chat(stream=True, **options)[2]
    assert made(unit="token") == before + 8
    # Who has not asked for it does not see what it is counted by.
    assert (b'"usage"' in body) is asked and body.endswith(b"data: [DONE]\n\n")
    told = json.loads(body.split(b"\n\n")[3].removeprefix(b"data: "))["provenance"]["request"]
    assert told.get("stream_options") == options.get("stream_options")
    assert 0.08 <= busy() - computed < 5


def test_the_time_that_requests_share_is_divided_among_them() -> None:
    now = [0.0]
    shares = series.Busy(lambda: now[0])
    one, two = ("cloth", "1"), ("cloth", "2")
    before = [counted_of(*one), counted_of(*two)]
    now[0] = 100.0  # nobody asks anything
    with shares.answering(one):
        now[0] = 101.0
        with shares.answering(two), shares.answering(two):
            now[0] = 104.0
        shares.settle()
    now[0] = 200.0
    shares.settle()
    after = [counted_of(*one), counted_of(*two)]
    assert [a - b for a, b in zip(after, before, strict=True)] == pytest.approx([2.0, 2.0])


def test_a_release_is_counted_from_the_moment_it_is_loaded(opened: Opened) -> None:
    install(opened.slot, 7)
    opened.reconcile()
    labels = {"model": "letters", "release": "7"}
    assert REGISTRY.get_sample_value("adire_made_total", {**labels, "unit": "token"}) == 0
    assert REGISTRY.get_sample_value("adire_busy_seconds_total", labels) == 0
    assert REGISTRY.get_sample_value("adire_load_seconds", labels) > 0
    assert REGISTRY.get_sample_value("adire_adapters_held") == 2


def test_answers_cut_off_are_counted(opened: Opened) -> None:
    before = counted("adire_llm_answers_cut_off_total")
    opened.engine.finish = "length"
    opened.chat()
    opened.chat(stream=True)
    assert counted("adire_llm_answers_cut_off_total") == before + 2


@pytest.mark.parametrize("how", ["off", "flag", "refuse"])
def test_words_of_the_list_are_counted_and_refused(slot: Path, how: str) -> None:
    install(slot, 1, moderation=how, moderation_words=["Ada", "粗话"])
    opened = Opened(slot, FakeEngine())
    answers = counted("adire_llm_moderated_total", side="answer")
    prompts = counted("adire_llm_moderated_total", side="prompt")
    made = counted("adire_made_total", unit="token")
    told = json.loads(opened.chat()[2])["choices"][0]
    streamed = opened.chat(stream=True)[2]
    assert counted("adire_made_total", unit="token") == made + 8
    asked = opened.chat(messages=[{"role": "user", "content": "她说粗话吗"}])[0]
    found = 0 if how == "off" else 1
    assert counted("adire_llm_moderated_total", side="prompt") == prompts + found
    assert counted("adire_llm_moderated_total", side="answer") >= answers + 2 * found
    assert (told["finish_reason"] == "content_filter") is (how == "refuse")
    assert (b"Ada" in streamed) is (how != "refuse") and streamed.endswith(b"[DONE]\n\n")
    assert asked == (400 if how == "refuse" else 200)
    assert opened.chat(messages=[{"role": "user", "content": "Adamant"}])[0] == 200


def test_only_what_is_for_clients_and_the_slot_is_open(opened: Opened) -> None:
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/docs", "/tokenize", "/"):
        assert opened.ask(path, {})[0] == 404, path
    assert opened.ask(CHAT, method="GET")[0] == 405
    assert opened.ask("/health", method="GET")[0] == opened.ask("/metrics", method="GET")[0] == 200
