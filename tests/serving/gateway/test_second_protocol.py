"""A second protocol and kind of slot server, each a module behind a plug, by the real Envoy."""

import http.client
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.request import urlopen

import pytest

from adire_assets.config import fleet
from adire_assets.config.fleet import SLOT_PORTS, FleetConfig, SlotConfig, TargetConfig
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving import client, release
from adire_assets.serving.fleet import guard
from adire_assets.serving.fleet.parity import scratch_server
from adire_assets.serving.gateway import config, protocol
from adire_assets.serving.gateway.served import ServedModel
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import steps
from adire_assets.serving.slot_server import is_live, server_of
from tests.support.chat import PIECES, ChatServer
from tests.support.ports import free_ports
from tests.support.running_gateway import MODEL, SOUND, RunningGateway, before

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with pytest.MonkeyPatch.context() as patch, ChatServer(1) as blue, ChatServer(2) as green:
        patch.setitem(protocol.PROTOCOLS, "chat", "tests.support.chat:CHAT")
        patch.setitem(fleet.SERVERS, "chat", "tests.support.chat:SERVER")
        root = tmp_path_factory.mktemp("chat")
        with before(root, blue, green, server="chat", request_timeout_seconds=0.8) as made:
            publish(made, {1: 100})
            assert wait_until(lambda: made.http(PATH, ask("cloth"))[0] == 200, 20)
            yield made


@pytest.fixture(autouse=True)
def sound(chat: RunningGateway) -> None:
    for server in (chat.blue, chat.green):
        server.status, server.cut, server.seconds = 200, None, 0.0


def publish(made: RunningGateway, weights: dict[int, int]) -> None:
    made.gateway.publish([ServedModel(MODEL, {1: "blue", 2: "green"}, weights)])


def ask(model: object, **more: object) -> bytes:
    return json.dumps({"model": model, "messages": [], **more}).encode()


def streamed(made: RunningGateway, model: str = MODEL) -> tuple[str | None, int, bool]:
    """The release that the gateway says has answered, how many pieces came, and whether all did."""
    connection = http.client.HTTPConnection(made.gateway.address, timeout=20)
    connection.request("POST", PATH, ask(model, stream=True), {"content-type": "application/json"})
    answer = connection.getresponse()
    try:
        body, whole = answer.read(), True
    except http.client.IncompleteRead as cut:
        body, whole = cut.partial, False
    return answer.headers["x-adire-release"], body.count(b"data: {"), whole


def test_a_chat_reaches_the_release_that_its_body_names(chat: RunningGateway) -> None:
    publish(chat, {1: 50, 2: 50})
    asked = [chat.http(PATH, ask("cloth"))[1]["release"] for _ in range(40)]
    assert set(Counter(asked)) == {1, 2}
    assert {chat.http(PATH, ask("cloth@2"))[1]["release"] for _ in range(10)} == {2}
    assert chat.http(PATH, ask("cloth@9"))[0] == 404
    status, answer = chat.http(PATH, ask("silk"))
    assert (status, answer["error"]["message"]) == (404, "no such model is served here")
    assert streamed(chat, "cloth@2") == ("2", PIECES, True)
    for body in (b"", b"{", ask(7), ask(None), b"[]", b"\xff", b'{"model": "a", "model": "b"}'):
        assert chat.http(PATH, body)[0] in (400, 404), body
    assert chat.http(PATH, method="GET")[0] == 405
    # These slots speak nothing else.
    assert chat.http(f"/v2/models/{MODEL}/infer", SOUND)[0] == 404
    assert chat.raw(b"") == "UNIMPLEMENTED"


def test_a_family_is_asked_by_its_first_protocol(chat: RunningGateway) -> None:
    publish(chat, {1: 100})
    functions = SimpleNamespace(inputs=dict, content=lambda answer: answer["release"])
    plug = cast(
        Family, SimpleNamespace(protocols=("chat",), serve=SimpleNamespace(functions=functions))
    )
    for release_asked, answers in ((None, 1), (2, 2)):
        answer = client.ask(chat.gateway.address, plug, MODEL, {"content": "hi"}, release_asked)
        assert (answer.release, answer.content) == (answers, answers)


def test_whose_fault_the_end_of_an_answer_was(chat: RunningGateway) -> None:
    publish(chat, {1: 100})
    start = chat.counted(1)

    def counted() -> tuple[int, int, int]:
        found = chat.counted(1).since(start)
        return found.answered, found.failed, found.refused

    assert streamed(chat) == ("1", PIECES, True)
    assert wait_until(lambda: counted() == (1, 0, 0), 10), counted()
    chat.blue.status = 400
    assert chat.http(PATH, ask("cloth"))[0] == 400
    assert wait_until(lambda: counted() == (1, 0, 1), 10), counted()
    chat.blue.status = 500
    assert chat.http(PATH, ask("cloth"))[0] == 500
    assert wait_until(lambda: counted() == (2, 1, 1), 10), counted()
    # Its status was 200: only the end tells that it is not an answer.
    chat.blue.status, chat.blue.cut = 200, 3
    assert streamed(chat) == ("1", 3, False)
    assert wait_until(lambda: counted() == (3, 2, 1), 10), counted()
    metrics = f"http://127.0.0.1:{chat.gateway.config.admin_port}/stats/prometheus"
    with urlopen(metrics) as page:  # what adire.rules.yml counts as a failure
        assert b'envoy_adire_broken_answers{cluster="cloth-1-chat"} 1' in page.read()


def test_the_timeout_of_a_stream_is_between_two_pieces(chat: RunningGateway) -> None:
    publish(chat, {1: 100})
    chat.blue.seconds = 0.3  # 1.5 s for the whole, with a timeout of 0.8 s
    assert streamed(chat) == ("1", PIECES, True)


def test_a_second_kind_of_server_is_started_filled_and_gone(
    chat: RunningGateway, tmp_path: Path
) -> None:
    folder: list[Path] = []

    def fill(slot: Path) -> str:
        (slot / "models" / MODEL / "3").mkdir(parents=True)
        folder.append(slot)
        return MODEL

    project = Project(tmp_path, tmp_path / "home")
    with scratch_server(project, "chat", "cpu", fill, 30) as address:
        slot = SlotConfig(server="chat", http_port=int(address.rpartition(":")[2]))
        assert is_live(slot) and server_of(slot).held(slot, MODEL) == {3}
        assert guard.is_running(guard.mark(folder[0]))
        release.remove(folder[0], MODEL, 3)
        assert server_of(slot).reconcile(slot, folder[0], MODEL, 5) == set()
    assert not is_live(slot) and not guard.is_running(guard.mark(folder[0]))


def test_a_release_comes_into_slots_whose_server_speaks_its_protocols(
    chat: RunningGateway, tmp_path: Path
) -> None:
    ports = iter(free_ports(14))
    slots = {
        name: {"server": server, **{port: next(ports) for port in SLOT_PORTS}}
        for name, server in (("a", "triton"), ("b", "triton"), ("c", "chat"), ("d", "chat"))
    }
    gateway = {"port": next(ports), "admin_port": next(ports)}
    both = FleetConfig.model_validate({"targets": {"eu": {"slots": slots, "gateway": gateway}}})
    served = [
        ServedModel("cloth", {1: "a"}, {1: 100}),
        ServedModel("letters", {2: "c"}, {2: 100}),
    ]
    target = both.targets["eu"]
    made = config.clusters(target.gateway, target.slots, served)
    ends = {one["name"]: len(one["load_assignment"]["endpoints"]) for one in made}
    assert {name: n for name, n in ends.items() if "cloth" in name or "letters" in name} == {
        "cloth-1": 2, "cloth-1-pinned": 1, "cloth-1-http": 2, "cloth-1-pinned-http": 1,
        "cloth-1-stream": 2, "cloth-1-pinned-stream": 1,
        "letters-2-chat": 2, "letters-2-pinned-chat": 1,
    }  # fmt: skip
    checks = {one["name"]: one["health_checks"][0]["http_health_check"]["path"] for one in made}
    assert checks["letters-2-chat"] == "/health" and checks["slots"] == "/v2/health/live"

    streamed = ServedModel("letters", {1: "a"}, {1: 100}, protocols=("kserve-stream",))
    named = json.dumps(config.model_routes(target.gateway, target.slots, streamed))
    made = config.clusters(target.gateway, target.slots, [streamed])
    ends = {one["name"] for one in made if "letters" in one["name"]}
    assert ends == {"letters-1-stream", "letters-1-pinned-stream"}
    assert {*re.findall(r'"(letters-[^"]*)"', named)} == ends
    assert "letters is not asked by kserve-grpc, but by kserve-stream" in named
    mixed = ServedModel("letters", {1: "a", 2: "c"}, {2: 100})
    named = json.dumps(config.model_routes(target.gateway, target.slots, mixed))
    found = {one["name"] for one in config.clusters(target.gateway, target.slots, [mixed])}
    assert {*re.findall(r'"(letters-[^"]*)"', named)} <= found

    project = Project(tmp_path, tmp_path / "home")
    nothing = {"key": "", "content_hash": ""}
    facts = dict.fromkeys(("repository", "adapter", "base_model", "evaluation", "verdict"), nothing)
    release.write_record(
        project,
        ReleaseRecord("cloth", 1, **facts, mlflow_run_id=None, provenance={}, family="diffusion"),
    )
    state = DeploymentRecord("cloth", "eu")
    assert steps.idle_slot(project, both, state, 1) == "a"
    assert steps.idle_slot(project, both, replace(state, active="a"), 1) == "b"
    with pytest.raises(UserError, match="which the live release 2 is not, so that clients"):
        steps.idle_slot(project, both, replace(state, live=2, active="c"), 1)
    texts = {name: slot for name, slot in slots.items() if slot["server"] == "chat"}
    other = FleetConfig.model_validate({"targets": {"eu": {"slots": texts, "gateway": gateway}}})
    with pytest.raises(UserError, match="asked by kserve-grpc, kserve-http, which no slot of eu"):
        steps.idle_slot(project, other, state, 1)
    with pytest.raises(ValueError, match="1 with server: chat; a target has two of each kind"):
        TargetConfig.model_validate({"slots": {n: slots[n] for n in ("a", "b", "c")}})


def test_a_target_refuses_a_kind_of_server_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no kind of slot server 'vlm'; known: triton"):
        SlotConfig(server="vlm")
    assert SlotConfig().server == "triton"


def test_a_script_of_a_protocol_stands_in_its_own_module() -> None:
    for one in protocol.all_protocols():
        assert one.scripts and all(path.is_file() for path in one.scripts)
    script = Path(protocol.__file__).with_name("gateway.lua").read_text(encoding="utf-8")
    assert "inference" not in script
