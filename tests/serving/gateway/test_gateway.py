"""The real Envoy in front of two servers of Triton's interface."""

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2

from adire_assets.cli import main
from adire_assets.config.fleet import FleetConfig, TargetConfig, TokenConfig, WebConfig
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.serving.fleet.slot_client import SlotClient
from adire_assets.serving.gateway import routing, tokens
from adire_assets.serving.gateway.config import ServedModel
from adire_assets.serving.gateway.traffic import Traffic
from tests.support.ports import free_port
from tests.support.running_gateway import INFER, MODEL, SOUND, RunningGateway, running_gateway

CLOTH = """\
family: diffusion
data: {path: data/cloth, instance_prompt: cloth}
base_model: {source: base}
evaluation: {judge: {source: judge}}
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path_factory.mktemp("gateway"), sticky_header="x-session") as made:
        yield made


def test_requests_are_shared_as_asked(opened: RunningGateway):
    opened.publish({1: 75, 2: 25})
    answers = Counter(opened.ask() for _ in range(400))
    assert 60 <= answers[2] <= 140 and answers.total() == 400


def test_who_asks_for_a_release_gets_it_or_is_told(opened: RunningGateway):
    opened.publish({1: 100})
    assert {opened.ask(("x-model-release", "2")) for _ in range(20)} == {2}
    assert {opened.ask(model_version="2") for _ in range(20)} == {2}
    assert {opened.ask() for _ in range(20)} == {1}
    assert opened.raw(b"") == opened.raw(b"\xff\xff") == "INVALID_ARGUMENT"
    code, sentence = opened.refusal(("x-model-release", "9"))
    assert code == "NOT_FOUND" and "loaded: 1, 2" in sentence
    assert opened.refusal(model_version="../2")[0] == "NOT_FOUND"
    assert opened.refusal(model="silk") == ("NOT_FOUND", "no such model is served here")
    # The header by which the gateway routes is not the client's to set.
    assert opened.refusal(("x-adire-model", MODEL), model="silk")[0] == "NOT_FOUND"
    assert opened.refusal(("x-adire-model", MODEL), model="")[0] == "INVALID_ARGUMENT"
    assert opened.ask(model="paper") == 5


def test_one_session_stays_with_one_release(opened: RunningGateway):
    opened.publish({1: 50, 2: 50})
    by_session = {
        name: {opened.ask(("x-session", name)) for _ in range(10)}
        for name in (f"visitor-{number}" for number in range(20))
    }
    assert all(len(releases) == 1 for releases in by_session.values())
    assert set().union(*by_session.values()) == {1, 2}


def test_http_and_grpc_web_reach_the_same_releases(opened: RunningGateway):
    opened.publish({1: 100})
    infer = f"/v2/models/{MODEL}/infer"
    assert opened.http(infer, SOUND) == (200, {"model_version": "1"})
    assert opened.http(infer, SOUND, x_model_release="2") == (200, {"model_version": "2"})
    path = f"/v2/models/{MODEL}/versions/2/infer"
    assert opened.http(path, SOUND) == (200, {"model_version": "2"})
    status, answer = opened.http(infer, SOUND, x_model_release="9")
    assert status == 404 and "loaded: 1, 2" in answer["error"]
    body = _grpc_web(opened, x_model_release="2")
    length = int.from_bytes(body[1:5], "big")
    answer = service_pb2.ModelInferResponse.FromString(body[5 : 5 + length])
    assert answer.model_version == "2" and b"grpc-status:0" in body
    for model, status in (("silk", "5"), ("", "3")):
        headers = _grpc_web_answer(opened, model)[0]
        assert headers["grpc-status"] == status, "a browser is told so as a gRPC client is"


def _grpc_web(opened: RunningGateway, **headers: str) -> bytes:
    """What a browser gets: the message and the trailers, one behind the other."""
    return _grpc_web_answer(opened, MODEL, **headers)[1]


def _grpc_web_answer(
    opened: RunningGateway, model: str, **headers: str
) -> tuple[Mapping[str, str], bytes]:
    request = service_pb2.ModelInferRequest(model_name=model).SerializeToString()
    framed = b"\0" + len(request).to_bytes(4, "big") + request
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["content-type"] = "application/grpc-web+proto"
    url = f"http://{opened.gateway.address}{INFER}"
    with urllib.request.urlopen(urllib.request.Request(url, framed, named)) as response:
        return response.headers, response.read()


@pytest.mark.parametrize(
    "method", ["RepositoryModelUnload", "SystemSharedMemoryRegister", "ModelStreamInfer"]
)
def test_what_is_not_for_clients_is_refused(opened: RunningGateway, method: str):
    assert opened.raw(b"", f"/inference.GRPCInferenceService/{method}") == "UNIMPLEMENTED"
    assert opened.http(f"/v2/repository/models/{MODEL}/unload", b"{}")[0] == 404
    assert opened.http(f"/v2/models/{MODEL}/trace/setting", b"{}")[0] == 404
    assert opened.http("/v2/models/../repository/index", b"{}")[0] == 404


def test_changing_routes_costs_no_request(opened: RunningGateway):
    opened.publish({1: 100})
    with opened.requests_all_along() as answers:
        for _ in range(10):
            opened.publish({1: 95, 2: 5})
            opened.publish({2: 100})
            opened.publish({1: 100})
    assert answers[1] > 50 and answers[2] > 20


def test_a_killed_slot_costs_no_request(opened: RunningGateway):
    opened.publish({1: 100})
    with opened.requests_all_along() as answers:
        assert wait_until(lambda: answers[1] > 20, 20)
        opened.blue.stop()
        assert wait_until(lambda: answers[2] > 50, 20)
        opened.blue.start()
        back = answers[1]
        assert wait_until(lambda: answers[1] > back + 50, 30)


def test_a_gateway_that_starts_again_routes_as_before(opened: RunningGateway):
    opened.publish({1: 0, 2: 100})
    opened.process.kill()
    opened.process.wait()
    opened.start()
    assert wait_until(lambda: opened.raw(b"") != "UNAVAILABLE", 20)
    assert {opened.ask() for _ in range(20)} == {2}


def test_what_a_release_answered_is_counted(opened: RunningGateway):
    opened.publish({1: 100})
    gateway = opened.gateway
    before, pinned = gateway.traffic(MODEL, 1), gateway.pinned_traffic(MODEL, 1)
    opened.blue.fault_share = 1.0
    for _ in range(3):
        assert opened.refusal()[0] == "INTERNAL"
    opened.blue.fault_share, opened.blue.seconds = 0.0, 0.1
    for _ in range(6):
        opened.ask()
    opened.blue.seconds = 0.0
    assert opened.refusal(id="wrong")[0] == "INVALID_ARGUMENT"
    opened.ask(("x-model-release", "1"))
    assert wait_until(
        lambda: (gateway.traffic(MODEL, 1).since(before).latency or [(0, 0)])[-1][1] == 10, 10
    )
    found = gateway.traffic(MODEL, 1).since(before)
    # What the client got wrong is no answer, though the histogram has it.
    assert (found.answered, found.failed, found.refused) == (9, 3, 1)
    within = dict(found.latency)
    assert within[50] >= 2 and within[90] < 9 <= within[200]
    assert gateway.pinned_traffic(MODEL, 1).since(pinned).answered == 1


def test_a_mirrored_release_fails_unseen_by_users_but_not_uncounted(opened: RunningGateway):
    opened.publish({1: 100}, mirrored=(2, 100))
    gateway = opened.gateway
    before, users = gateway.pinned_traffic(MODEL, 2), gateway.traffic(MODEL, 2)
    opened.green.fault_share, opened.green.seconds = 1.0, 0.05
    # Fewer at a time than take the slot out, so that each copy gets its answer from the release.
    assert [opened.ask() for _ in range(3)] == [1] * 3
    assert wait_until(lambda: gateway.pinned_traffic(MODEL, 2).since(before).failed == 3, 10)
    opened.green.fault_share = 0.0
    assert [opened.ask() for _ in range(3)] == [1] * 3
    assert opened.http(f"/v2/models/{MODEL}/infer", SOUND) == (200, {"model_version": "1"})
    assert wait_until(
        lambda: (gateway.pinned_traffic(MODEL, 2).since(before).latency or [(0, 0)])[-1][1] == 7, 10
    )
    opened.green.seconds = 0.0
    found = gateway.pinned_traffic(MODEL, 2).since(before)
    assert (found.answered, found.failed, found.ejected) == (7, 3, 0)
    within = dict(found.latency)
    assert within[40] < 4 <= within[130]
    assert gateway.traffic(MODEL, 2).since(users).answered == 0


def test_too_many_at_once_are_refused_at_once_and_blamed_on_nobody(tmp_path: Path):
    with running_gateway(tmp_path, maximum_concurrent_requests=4) as made:
        made.publish({1: 100}, mirrored=(2, 100))
        made.blue.seconds, made.green.seconds = 1.0, 1.0
        sound = service_pb2.ModelInferRequest(model_name=MODEL).SerializeToString()

        def over_grpc(_: int) -> tuple[str | int, float]:
            start = time.monotonic()
            return made.raw(sound), time.monotonic() - start

        def over_http(_: int) -> tuple[str | int, float]:
            start = time.monotonic()
            return made.http(f"/v2/models/{MODEL}/infer", SOUND)[0], time.monotonic() - start

        with futures.ThreadPoolExecutor(12) as clients:
            asked = list(clients.map(over_grpc, range(12)))
            asked_http = list(clients.map(over_http, range(12)))
        assert Counter(code for code, _ in asked) == {"OK": 4, "RESOURCE_EXHAUSTED": 8}
        codes = Counter(code for code, _ in asked_http)
        # Over HTTP/1.1, up to as many again wait for a connection.
        assert set(codes) == {200, 429} and 4 <= codes[200] <= 8
        refused = [one for one in asked + asked_http if one[0] in ("RESOURCE_EXHAUSTED", 429)]
        assert max(seconds for _, seconds in refused) < 0.5
        made.blue.seconds = made.green.seconds = 0.0
        for number in (1, 2):
            assert wait_until(lambda one=number: made.counted(one).active == 0, 10)
            found = made.counted(number)
            assert found.answered >= 8 and (found.failed, found.ejected) == (0, 0), found
        assert {made.ask() for _ in range(5)} == {1}


def test_counts_go_on_after_the_gateway_was_restarted():
    before = Traffic(10, 2, 0, ((5.0, 8), (10.0, 10)))
    assert Traffic(12, 2, 0, ((5.0, 9), (10.0, 12))).since(before) == Traffic(
        2, 0, 0, ((5.0, 1), (10.0, 2))
    )
    assert Traffic(3, 0, 0, ((5.0, 3),)).since(before).answered == 3


def test_clients_that_give_up_early_are_not_the_releases_failure(opened: RunningGateway):
    opened.publish({1: 100})
    before = opened.counted(1)
    opened.blue.seconds = 0.3
    sound = service_pb2.ModelInferRequest(model_name=MODEL).SerializeToString()
    impatient = (("x-envoy-upstream-rq-timeout-ms", "1"), ("x-envoy-max-retries", "9"))
    for _ in range(6):
        assert opened.raw(sound, timeout=0.05) == "DEADLINE_EXCEEDED"
        assert opened.raw(sound, metadata=impatient) == "OK"
        assert b"grpc-status:0" in _grpc_web(opened, grpc_timeout="1m")  # a millisecond
    opened.blue.seconds = 0.0
    assert wait_until(lambda: opened.counted(1).active == 0, 10)
    found = opened.counted(1).since(before)
    assert (found.failed, found.ejected) == (0, 0), found
    # How long they have waited is known.
    given_up = dict(found.unanswered)
    assert given_up[300] == 6 and given_up[40] == 0


def test_what_hangs_is_waited_for_and_given_up_once(tmp_path: Path):
    with running_gateway(tmp_path, request_timeout_seconds=0.6) as made:
        made.publish({1: 100})
        sound = service_pb2.ModelInferRequest(model_name=MODEL).SerializeToString()
        made.blue.seconds = made.green.seconds = 1.5
        with futures.ThreadPoolExecutor(1) as client:
            asked = client.submit(made.raw, sound)
            assert wait_until(lambda: made.counted(1).active == 1, 10, pause=0.01)
            assert made.counted(1).answered == 0
            assert asked.result() == "UNAVAILABLE"  # by the gateway
        assert made.http(f"/v2/models/{MODEL}/infer", SOUND, x_model_release="1")[0] == 504
        pinned = (("x-model-release", "2"),)
        assert made.raw(sound, metadata=pinned, timeout=0.3) == "DEADLINE_EXCEEDED"
        assert wait_until(lambda: (made.counted(2).unanswered or [(0, 0)])[-1][1] == 1, 10)
        one, two = made.counted(1), made.counted(2)
        assert (one.answered, one.failed, one.active) == (2, 2, 0)
        assert one.unanswered[-1][1] == 2 and dict(one.unanswered)[520] == 0
        assert (two.answered, two.failed, two.active) == (0, 0, 0)
        assert one.latency[-1][1] == 0 if one.latency else True


def test_a_slot_that_does_not_answer_health_checks_is_out(tmp_path: Path):
    with running_gateway(tmp_path) as made:
        made.publish({2: 100})
        assert not made.gateway.pinned_traffic(MODEL, 2).out
        made.green.healthy = False
        assert wait_until(lambda: made.gateway.pinned_traffic(MODEL, 2).out, 10)
        # Each cluster has health checks of its own: the other slot answers in its place soon.
        assert wait_until(lambda: made.ask() == 1, 10)
        before = made.gateway.pinned_traffic(MODEL, 2)
        assert before.unhealthy >= 1
        assert wait_until(
            lambda: made.gateway.pinned_traffic(MODEL, 2).unhealthy > before.unhealthy, 10
        )
        made.green.healthy = True
        assert wait_until(lambda: not made.gateway.pinned_traffic(MODEL, 2).out, 10)


def test_too_large_and_too_many_are_refused(tmp_path: Path):
    limits = {"maximum_request_bytes": 4096, "requests_per_minute": 30}
    with running_gateway(tmp_path, **limits) as made:
        made.publish({1: 100})
        assert made.refusal(raw_input_contents=[b"x" * 100_000])[0] == "RESOURCE_EXHAUSTED"
        assert made.http(f"/v2/models/{MODEL}/infer", b"x" * 100_000)[0] == 413
        answers: Counter = Counter()
        for _ in range(40):
            request = service_pb2.ModelInferRequest(model_name=MODEL).SerializeToString()
            answers[made.raw(request)] += 1
        assert set(answers) == {"OK", "RESOURCE_EXHAUSTED"} and 20 <= answers["OK"] <= 30


def test_only_who_brings_a_good_token_is_let_in(tmp_path: Path):
    folder, wrong = tmp_path / "auth", tmp_path / "other"
    old = tokens.make_keys(folder)
    claims = {"issuer": "adire", "audience": "adire", "days": 1.0}
    early = tokens.issue(folder, "ada", **claims)
    assert tokens.make_keys(folder) != old
    tokens.make_keys(wrong)
    assert (folder / "private.pem").stat().st_mode & 0o077 == 0
    with running_gateway(tmp_path, tokens=TokenConfig(keys="auth/keys.json")) as made:
        made.publish({1: 100})

        def asked(token: str | None) -> str:
            headers = [("authorization", f"Bearer {token}")] if token else []
            try:
                return str(made.ask(*headers))
            except grpc.RpcError as error:
                return error.code().name

        good = tokens.issue(folder, "ada", **claims)
        assert asked(good) == asked(early) == "1"
        assert asked(None) == "UNAUTHENTICATED"
        assert asked(good[:-6] + "AAAAAA") == "UNAUTHENTICATED"
        assert asked(tokens.issue(wrong, "ada", **claims)) == "UNAUTHENTICATED"
        assert asked(tokens.issue(folder, "ada", **claims | {"days": -1.0})) == "UNAUTHENTICATED"
        other = claims | {"audience": "elsewhere"}
        assert asked(tokens.issue(folder, "ada", **other)) == "PERMISSION_DENIED"
        path = f"/v2/models/{MODEL}/infer"
        assert made.http(path, b"{}")[0] == 401
        assert made.http(path, SOUND, authorization=f"Bearer {good}")[0] == 200
        assert made.http("/v2/health/live")[0] == 401


def test_a_table_that_envoy_refuses_leaves_the_old_one_in_use(opened: RunningGateway):
    opened.publish({1: 100})
    with pytest.raises(UserError, match="did not take its new routes"):
        opened.gateway.publish([ServedModel(MODEL, {1: "blue"}, {7: 100})])
    # Counted is the release that the table names, whichever slot stands in for it.
    before = opened.gateway.traffic(MODEL, 1)
    for _ in range(10):
        opened.ask()
    assert opened.gateway.traffic(MODEL, 1).since(before).answered == 10
    opened.process.kill()
    opened.process.wait()
    with pytest.raises(UserError, match="adire up"):
        opened.publish({2: 100})
    opened.start()
    assert wait_until(lambda: opened.raw(b"") != "UNAVAILABLE", 20)
    assert {opened.ask() for _ in range(10)} == {2}


def same_ports(opened: RunningGateway) -> FleetConfig:
    slots = {
        name: slot.model_copy(update={"metrics_port": free_port()})
        for name, slot in opened.gateway.slots.items()
    }
    target = TargetConfig(slots=slots, gateway=opened.gateway.config)
    return FleetConfig(targets={"local": target}, dagster=WebConfig(port=free_port()))


def test_a_project_does_not_take_anothers_gateway_for_its_own(
    opened: RunningGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """A second checkout with the same ports, while the first one's fleet runs."""
    opened.publish({1: 100})
    assert opened.gateway.live()
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "cloth.yaml").write_text(CLOTH)
    fleet = same_ports(opened)
    other = replace(opened.gateway, project=Project(tmp_path, tmp_path / ".adire"))
    other.prepare()
    assert not other.live()
    for act in (
        lambda: other.publish([]),
        lambda: other.routes_as(ServedModel(MODEL, {1: "blue"}, {1: 100})),
        lambda: routing.endpoint_of(other.project, fleet, "local"),
    ):
        with pytest.raises(UserError, match="another project's; stop it there"):
            act()
    assert {opened.ask() for _ in range(5)} == {1}, "its routes were touched"

    (tmp_path / "configs" / "fleet.yaml").write_text(json.dumps(fleet.model_dump(mode="json")))
    monkeypatch.delenv("ADIRE_FLEET", raising=False)
    monkeypatch.delenv("ADIRE_HOME", raising=False)
    monkeypatch.setenv("ADIRE_PROJECT", str(tmp_path))
    for words in (["generate", "circles", "--model", "cloth"], ["status"]):
        monkeypatch.setattr("sys.argv", ["adire", *words])
        with suppress(SystemExit):
            main.main()
    told = capsys.readouterr()
    assert "another project's" in told.err
    assert "gateway-local: STOPPED" in told.out


def test_a_slot_of_another_project_does_not_count(opened: RunningGateway, tmp_path: Path) -> None:
    fleet = same_ports(opened)
    project = Project(tmp_path, tmp_path / ".adire")
    with pytest.raises(UserError, match="what answers there is another project's"):
        SlotClient(project, fleet, "local", "blue").require_ours()
