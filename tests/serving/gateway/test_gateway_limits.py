"""What the real Envoy refuses or gives up: too many or too large requests, and what hangs."""

import time
from collections import Counter
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from adire_assets.config.fleet import GatewayConfig, SlotConfig
from adire_assets.core.answer import UsualRequest
from adire_assets.core.waiting import wait_until
from adire_assets.serving.gateway.served import ServedModel, requests_at_once
from adire_assets.serving.gateway.traffic import Traffic
from tests.support.running_gateway import MODEL, SOUND, running_gateway


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
        assert made.counted(1).full == len(refused)
        assert {made.ask() for _ in range(5)} == {1}


ONE = UsualRequest("base", 1.0, 2.0)
HOSTS = {"blue": "127.0.0.1", "green": "localhost", "far": "far.eu"}


@pytest.mark.parametrize(
    ("served", "most"),
    [
        ([("cloth", {1: ("blue", 100)})], {("cloth", 1): 48}),
        # Two releases of an engine, each with half of its time; nobody asks the third one.
        (
            [("cloth", {1: ("blue", 100), 2: ("green", 0)}), ("paper", {1: ("blue", 100)})],
            {("cloth", 1): 12, ("cloth", 2): 24, ("paper", 1): 12},
        ),
        # A canary on the same machine takes turns with both of them.
        (
            [("cloth", {1: ("blue", 95), 2: ("green", 5)}), ("paper", {1: ("blue", 100)})],
            {("cloth", 1): 6, ("cloth", 2): 24, ("paper", 1): 6},
        ),
        ([("cloth", {1: ("blue", 95), 2: ("far", 5)})], {("cloth", 1): 48, ("cloth", 2): 48}),
    ],
)
def test_as_many_are_let_through_as_are_answered_in_time(served: Any, most: Any):
    models = [
        ServedModel(
            model,
            {number: slot for number, (slot, _) in held.items()},
            {number: weight for number, (_, weight) in held.items()},
            usual=dict.fromkeys(held, ONE),
        )
        for model, held in served
    ]
    slots = {
        name: SlotConfig(host=host, launch="remote", folder="/") for name, host in HOSTS.items()
    }
    # As streams they are the same releases of the same engines.
    models += [replace(one, asked_as=f"{one.model}_stream") for one in models]
    assert requests_at_once(GatewayConfig(request_timeout_seconds=96), slots, models) == most
    fixed = GatewayConfig(maximum_concurrent_requests=7)
    assert set(requests_at_once(fixed, slots, models).values()) == {7}


def test_each_goes_by_its_own_measure_and_what_was_not_measured_has_its_part_too():
    slots = {"blue": SlotConfig(), "green": SlotConfig()}
    measured = {1: UsualRequest("base", 1.0, 2.0), 2: UsualRequest("base", 10.0)}
    loaded = dict.fromkeys(measured, "blue")
    served = [ServedModel("cloth", loaded, {1: 100}, usual=measured)]
    gateway = GatewayConfig(request_timeout_seconds=40)
    # Who asks for release 2 by its number shares the engine.
    assert requests_at_once(gateway, slots, served) == {("cloth", 1): 20, ("cloth", 2): 1}
    served.append(ServedModel("paper", {1: "green"}, {1: 100}))
    found = requests_at_once(gateway, slots, served)
    assert found == {("cloth", 1): 10, ("cloth", 2): 1, ("paper", 1): 64}


def test_one_is_let_through_however_long_it_takes_and_never_more_than_have_threads():
    slots = {"blue": SlotConfig()}
    for seconds, most in ((1000.0, 1), (0.001, 1000)):
        usual = {1: UsualRequest("base", seconds)}
        served = [ServedModel("cloth", {1: "blue", 2: "blue"}, {1: 100}, usual=usual)]
        found = requests_at_once(GatewayConfig(), slots, served)
        assert found == {("cloth", 1): most, ("cloth", 2): 64}


def test_the_gateway_goes_by_what_a_usual_request_takes(tmp_path: Path):
    with running_gateway(tmp_path, request_timeout_seconds=24) as made:
        made.blue.seconds = 1.0  # half of its slot is another model's
        made.publish({1: 100}, usual={1: UsualRequest("base", 2.0)})
        sound = service_pb2.ModelInferRequest(model_name=MODEL).SerializeToString()
        with futures.ThreadPoolExecutor(12) as clients:
            codes = Counter(clients.map(made.raw, [sound] * 12))
        assert codes == {"OK": 3, "RESOURCE_EXHAUSTED": 9}
        assert wait_until(lambda: made.counted(1).full == 9, 10)


def test_counts_go_on_after_the_gateway_was_restarted():
    before = Traffic(10, 2, 0, ((5.0, 8), (10.0, 10)))
    assert Traffic(12, 2, 0, ((5.0, 9), (10.0, 12))).since(before) == Traffic(
        2, 0, 0, ((5.0, 1), (10.0, 2))
    )
    assert Traffic(3, 0, 0, ((5.0, 3),)).since(before).answered == 3


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
