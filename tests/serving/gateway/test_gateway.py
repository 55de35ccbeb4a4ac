"""The real Envoy in front of two servers of Triton's interface."""

import json
from collections import Counter
from collections.abc import Iterator
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
from adire_assets.serving.gateway.served import ServedModel
from tests.support.grpc_web import grpc_web, grpc_web_answer
from tests.support.ports import free_port
from tests.support.running_gateway import MODEL, SOUND, RunningGateway, running_gateway

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
    body = grpc_web(opened, x_model_release="2")
    length = int.from_bytes(body[1:5], "big")
    answer = service_pb2.ModelInferResponse.FromString(body[5 : 5 + length])
    assert answer.model_version == "2" and b"grpc-status:0" in body
    for model, status in (("silk", "5"), ("", "3")):
        headers = grpc_web_answer(opened, model)[0]
        assert headers["grpc-status"] == status, "a browser is told so as a gRPC client is"


@pytest.mark.parametrize(
    "method", ["RepositoryModelUnload", "SystemSharedMemoryRegister", "LogSettings"]
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
    assert wait_until(lambda: gateway.pinned_traffic(MODEL, 1).since(pinned).answered == 1, 10)


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


def test_a_slot_that_stands_in_is_seen_when_the_gateway_would_ask_it(opened: RunningGateway):
    opened.gateway.publish([ServedModel("paper", {5: "blue"}, {5: 100})])
    sees = opened.gateway.sees
    assert wait_until(lambda: sees("green", {"paper"}), 10)
    opened.green.healthy = False
    assert wait_until(lambda: not sees("green", {"paper"}), 10)
    assert sees("green") and sees("green", {MODEL}), "it is nobody's first choice"
    opened.green.healthy = True
    assert wait_until(lambda: sees("green", {"paper"}), 10)


def test_clients_that_give_up_early_are_not_the_releases_failure(opened: RunningGateway):
    opened.publish({1: 100})
    before = opened.counted(1)
    sound = service_pb2.ModelInferRequest(model_name=MODEL).SerializeToString()
    impatient = (("x-envoy-upstream-rq-timeout-ms", "1"), ("x-envoy-max-retries", "9"))
    # Both slots alike: the release is counted whichever of them stands in for the other.
    opened.blue.seconds = opened.green.seconds = 5.0
    for _ in range(6):
        assert opened.raw(sound, timeout=0.5) == "DEADLINE_EXCEEDED"
    opened.blue.seconds = opened.green.seconds = 0.3
    for _ in range(6):
        assert opened.raw(sound, metadata=impatient) == "OK"
        assert b"grpc-status:0" in grpc_web(opened, grpc_timeout="1m")  # a millisecond
    opened.blue.seconds = opened.green.seconds = 0.0
    assert wait_until(lambda: opened.counted(1).active == 0, 10)
    found = opened.counted(1).since(before)
    assert (found.failed, found.ejected) == (0, 0), found
    # How long they have waited is known.
    given_up = dict(found.unanswered)
    assert given_up[2500] == 6 and given_up[250] == 0


def test_a_table_that_envoy_refuses_leaves_the_old_one_in_use(opened: RunningGateway):
    opened.publish({1: 100})
    with pytest.raises(UserError, match="did not take its new routes"):
        opened.gateway.publish([ServedModel(MODEL, {1: "blue"}, {7: 100})])

    # Counted is the release that the table names, whichever slot stands in for it.
    def counted() -> int:
        return opened.gateway.traffic(MODEL, 1).answered

    # Envoy takes the old table up again: for a moment answers still count for what it gave up.
    def counts() -> bool:
        before = counted()
        opened.ask()
        return wait_until(lambda: counted() == before + 1, 1)

    assert wait_until(counts, 30)
    before = counted()
    for _ in range(10):
        opened.ask()
    assert wait_until(lambda: counted() == before + 10, 10), counted() - before
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
