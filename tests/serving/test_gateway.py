"""The real Envoy in front of two servers of Triton's interface."""

import json
import random
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adire_assets.config import Project
from adire_assets.errors import UserError
from adire_assets.fleet_config import GatewayConfig, SlotConfig, TokenConfig
from adire_assets.serving import tokens
from adire_assets.serving.gateway import Gateway, Traffic
from adire_assets.serving.gateway_config import Served
from adire_assets.serving.triton import free_port, wait_until
from tests.support.backend import Backend

MODEL = "cloth"
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class Door:
    """A gateway, its two servers (blue has release 1, green 2), and a channel to it."""

    gateway: Gateway
    blue: Backend
    green: Backend
    process: subprocess.Popen = field(init=False)
    channel: grpc.Channel = field(init=False)

    def start(self) -> None:
        self.gateway.prepare()
        command = self.gateway.command()
        with (self.gateway.folder / "envoy.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        assert wait_until(self.gateway.live, 20, alive=lambda: self.process.poll() is None)

    def publish(self, weights: dict[int, int], **more) -> None:
        served = Served(MODEL, {1: "blue", 2: "green"}, weights, **more)
        self.gateway.publish([served, Served("paper", {5: "blue"}, {5: 100})])

    def ask(self, *headers: tuple[str, str], model: str = MODEL, **fields) -> int:
        """The release that answers; grpc.RpcError with its code when none does."""
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        request = service_pb2.ModelInferRequest(model_name=model, **fields)
        return int(stub.ModelInfer(request, metadata=headers, timeout=20).model_version)

    def refusal(self, *headers: tuple[str, str], **fields) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(*headers, **fields)
        return caught.value.code().name, caught.value.details()

    def raw(self, body: bytes, method: str = INFER) -> str:
        """The code of a request of any bytes."""
        try:
            self.channel.unary_unary(method)(body, timeout=20)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def http(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            f"http://{self.gateway.address}{path}", data=body, headers=named
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, json.loads(text) if text[:1] == b"{" else {}

    @contextmanager
    def requests_all_along(self) -> Iterator[Counter]:
        """Four clients that send all along; afterwards none may have met an error."""
        answers: Counter = Counter()
        failures: list[str] = []
        over = threading.Event()

        def send() -> None:
            while not over.wait(0.002):
                try:
                    answers[self.ask()] += 1
                except grpc.RpcError as error:
                    failures.append(f"{error.code()} {error.details()}")

        clients = [threading.Thread(target=send) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            yield answers
            sent = answers.total()
            assert wait_until(lambda: answers.total() > sent + 50 or bool(failures), 30)
        finally:
            over.set()
            for client in clients:
                client.join()
        assert not failures, (len(failures), failures[:3])


@contextmanager
def door(root: Path, **settings) -> Iterator[Door]:
    with Backend({MODEL: 1, "paper": 5}) as blue, Backend({MODEL: 2}) as green:
        slots = {
            name: SlotConfig(grpc_port=one.grpc_port, http_port=one.http_port)
            for name, one in (("blue", blue), ("green", green))
        }
        config = GatewayConfig(port=free_port(), admin_port=free_port(), **settings)
        made = Door(Gateway(Project(root, root / ".adire"), "local", config, slots), blue, green)
        made.start()
        made.channel = grpc.insecure_channel(made.gateway.address)
        try:
            yield made
        finally:
            made.channel.close()
            made.process.kill()
            made.process.wait()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with door(tmp_path_factory.mktemp("door"), sticky_header="x-session") as made:
        yield made


def test_requests_are_shared_as_asked(opened: Door):
    opened.publish({1: 75, 2: 25})
    answers = Counter(opened.ask() for _ in range(400))
    assert 60 <= answers[2] <= 140 and answers.total() == 400


def test_who_asks_for_a_release_gets_it_or_is_told(opened: Door):
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


def test_one_session_stays_with_one_release(opened: Door):
    opened.publish({1: 50, 2: 50})
    by_session = {
        name: {opened.ask(("x-session", name)) for _ in range(10)}
        for name in (f"visitor-{number}" for number in range(20))
    }
    assert all(len(releases) == 1 for releases in by_session.values())
    assert set().union(*by_session.values()) == {1, 2}


def test_http_and_grpc_web_reach_the_same_releases(opened: Door):
    opened.publish({1: 100})
    infer = f"/v2/models/{MODEL}/infer"
    assert opened.http(infer, b"{}") == (200, {"model_version": "1"})
    assert opened.http(infer, b"{}", x_model_release="2") == (200, {"model_version": "2"})
    path = f"/v2/models/{MODEL}/versions/2/infer"
    assert opened.http(path, b"{}") == (200, {"model_version": "2"})
    status, answer = opened.http(infer, b"{}", x_model_release="9")
    assert status == 404 and "loaded: 1, 2" in answer["error"]
    request = service_pb2.ModelInferRequest(model_name=MODEL).SerializeToString()
    framed = b"\0" + len(request).to_bytes(4, "big") + request
    headers = {"content-type": "application/grpc-web+proto", "x-model-release": "2"}
    url = f"http://{opened.gateway.address}{INFER}"
    with urllib.request.urlopen(urllib.request.Request(url, framed, headers)) as response:
        body = response.read()
    length = int.from_bytes(body[1:5], "big")
    answer = service_pb2.ModelInferResponse.FromString(body[5 : 5 + length])
    assert answer.model_version == "2" and b"grpc-status:0" in body


@pytest.mark.parametrize(
    "method", ["RepositoryModelUnload", "SystemSharedMemoryRegister", "ModelStreamInfer"]
)
def test_what_is_not_for_clients_is_refused(opened: Door, method: str):
    assert opened.raw(b"", f"/inference.GRPCInferenceService/{method}") == "UNIMPLEMENTED"
    assert opened.http(f"/v2/repository/models/{MODEL}/unload", b"{}")[0] == 404
    assert opened.http(f"/v2/models/{MODEL}/trace/setting", b"{}")[0] == 404
    assert opened.http("/v2/models/../repository/index", b"{}")[0] == 404


def test_changing_routes_costs_no_request(opened: Door):
    opened.publish({1: 100})
    with opened.requests_all_along() as answers:
        for _ in range(10):
            opened.publish({1: 95, 2: 5})
            opened.publish({2: 100})
            opened.publish({1: 100})
    assert answers[1] > 50 and answers[2] > 20


def test_a_killed_slot_costs_no_request(opened: Door):
    opened.publish({1: 100})
    with opened.requests_all_along() as answers:
        assert wait_until(lambda: answers[1] > 20, 20)
        opened.blue.stop()
        assert wait_until(lambda: answers[2] > 50, 20)
        opened.blue.start()
        back = answers[1]
        assert wait_until(lambda: answers[1] > back + 50, 30)


def test_a_gateway_that_starts_again_routes_as_before(opened: Door):
    opened.publish({1: 0, 2: 100})
    opened.process.kill()
    opened.process.wait()
    opened.start()
    assert wait_until(lambda: opened.raw(b"") != "UNAVAILABLE", 20)
    assert {opened.ask() for _ in range(20)} == {2}


def test_what_a_release_answered_is_counted(opened: Door):
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
    assert (found.answered, found.failed) == (10, 3)
    assert 90 <= found.quantile(0.9) <= 200 and found.quantile(0.2) < 50
    assert gateway.pinned_traffic(MODEL, 1).since(pinned).answered == 1


def test_counts_go_on_after_the_gateway_was_restarted():
    before = Traffic(10, 2, 0, ((5.0, 8), (10.0, 10)))
    assert Traffic(12, 2, 0, ((5.0, 9), (10.0, 12))).since(before) == Traffic(
        2, 0, 0, ((5.0, 1), (10.0, 2))
    )
    assert Traffic(3, 0, 0, ((5.0, 3),)).since(before).answered == 3


def test_a_thousand_malformed_requests_are_refused_and_harm_nothing(opened: Door):
    opened.publish({1: 50, 2: 50})
    rng = random.Random(0)
    sound = service_pb2.ModelInferRequest(model_name=MODEL, id="7").SerializeToString()
    codes: Counter = Counter()
    for number in range(500):
        body = bytearray(sound if number % 2 else rng.randbytes(rng.randrange(1, 60)))
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        codes[opened.raw(bytes(body))] += 1
        path = f"/v2/models/{MODEL}/{rng.choice(['infer', 'infer/', '%2e%2e', '?x', '/'])}"
        status, _ = opened.http(path, rng.randbytes(40), content_type="application/json")
        codes[status] += 1
    allowed = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", 200, 400, 404}
    print(codes)
    assert set(codes) <= allowed, codes
    assert opened.ask() in (1, 2)
    assert opened.process.poll() is None


def test_too_large_and_too_many_are_refused(tmp_path: Path):
    limits = {"maximum_request_bytes": 4096, "requests_per_minute": 30}
    with door(tmp_path, **limits) as made:
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
    with door(tmp_path, tokens=TokenConfig(keys="auth/keys.json")) as made:
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
        assert made.http(path, b"{}", authorization=f"Bearer {good}")[0] == 200
        assert made.http("/v2/health/live")[0] == 401


def test_a_table_that_envoy_refuses_leaves_the_old_one_in_use(opened: Door):
    opened.publish({1: 100})
    with pytest.raises(UserError, match="did not take its new routes"):
        opened.gateway.publish([Served(MODEL, {1: "blue"}, {7: 100})])
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
