"""Streams of KServe's gRPC behind the real Envoy: routed and counted as single answers are."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adire_assets.core.waiting import wait_until
from adire_assets.serving.gateway.config import clusters
from adire_assets.serving.gateway.served import ServedModel
from adire_assets.serving.gateway.traffic import histogram_total
from tests.support.running_gateway import MODEL, RunningGateway, running_gateway

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


ON = threading.Event()  # without it, answers wait behind their first piece
PIECES = {"stop": 4, "length": 3}  # of the answers that tell how they ended: by the request's id


def _pieces(service: Any, requests: Any, context: Any) -> Iterator[Any]:
    """What a server answers: two pieces, of which the second may fail."""
    [request] = requests
    told = dict(context.invocation_metadata())
    number = str(service.backend.releases[request.model_name])
    for place in range(PIECES.get(request.id, 2)):
        if place:
            ON.wait(20)
        if place and request.id == "broken":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer broke off")
        answer = service_pb2.ModelInferResponse(model_version=number, id=str(place))
        answer.outputs.add(name="text_output", datatype="BYTES", shape=[1])
        # What a text says before the end is not how it ended.
        text = b"\6\0\0\0length" if place == 0 else b"\4\0\0\0silk"
        answer.raw_output_contents.append(text)
        if place == PIECES.get(request.id, 0) - 1:
            answer.outputs.add(name="finish_reason", datatype="BYTES", shape=[1])
            reason = request.id.encode()
            answer.raw_output_contents.append(len(reason).to_bytes(4, "little") + reason)
            answer.raw_output_contents.append(b"x" * 100_000)
        answer.parameters["grpc_error"].string_param = told.get("triton_grpc_error", "")
        yield service_pb2.ModelStreamInferResponse(infer_response=answer)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.backend._Service.ModelStreamInfer", _pieces)
        with running_gateway(tmp_path_factory.mktemp("streams")) as made:
            made.publish({1: 100})
            yield made


def ask(opened: RunningGateway, *requests: Any) -> Any:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(opened.channel)
    return stub.ModelStreamInfer(iter(requests), timeout=20)


def request(version: str = "", **fields: Any) -> Any:
    return service_pb2.ModelInferRequest(
        model_name=fields.pop("model", MODEL), model_version=version, **fields
    )


def test_the_first_piece_is_there_before_the_second_is_made(opened: RunningGateway) -> None:
    for version, number in (("", "1"), ("2", "2")):
        ON.clear()
        stream = ask(opened, request(version))
        first = next(stream).infer_response
        assert (first.model_version, first.id) == (number, "0")
        # A Triton then ends what fails by a status, which can be counted.
        assert first.parameters["grpc_error"].string_param == "true"
        assert dict(stream.initial_metadata())["x-adire-release"] == number
        ON.set()
        assert [one.infer_response.id for one in stream] == ["1"]


def test_what_is_not_served_and_what_is_no_request_is_refused(opened: RunningGateway) -> None:
    for asked, code, said in (
        ([request("7")], "NOT_FOUND", "not loaded; loaded: 1, 2"),
        ([request(model="silk")], "NOT_FOUND", "no such model"),
        ([request(), request()], "INVALID_ARGUMENT", "not one whole message"),
        ([], "INVALID_ARGUMENT", "not one whole message"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            list(ask(opened, *asked))
        assert caught.value.code().name == code and said in caught.value.details()
    lethal = request()
    lethal.parameters["classification"].int64_param = 1
    assert opened.raw(lethal.SerializeToString(), STREAM) == "INVALID_ARGUMENT"


def test_streams_by_a_name_of_their_own_count_for_the_release(opened: RunningGateway) -> None:
    ON.set()
    name = f"{MODEL}_stream"
    opened.blue.releases[name] = 1
    whole = ServedModel(MODEL, {1: "blue", 2: "green"}, {1: 60, 2: 40}, protocols=("kserve-grpc",))
    streamed = replace(
        whole, loaded={1: "blue"}, weights={1: 60}, protocols=("kserve-stream",), asked_as=name
    )
    opened.gateway.publish([whole, streamed])
    assert opened.gateway.routes_as(streamed)
    before = opened.counted(1)
    for _ in range(5):  # the other release has none
        assert [one.infer_response.model_version for one in ask(opened, request(model=name))] == [
            "1", "1",
        ]  # fmt: skip
    assert wait_until(lambda: opened.counted(1).since(before).answered == 5, 10)
    for asked, said in (
        (request("2", model=name), f"the release of {name} that was asked for is not loaded; loa"),
        (request(), f"{MODEL} is not asked by kserve-stream, but by kserve-grpc"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            list(ask(opened, asked))
        assert caught.value.code().name == "NOT_FOUND" and said in caught.value.details()
    said = f"{name} is not asked by kserve-grpc, but by kserve-stream"
    assert opened.refusal(model=name) == ("NOT_FOUND", said)
    checked = {
        cluster["name"]: cluster["health_checks"][0]["http_health_check"]["path"]
        for cluster in clusters(opened.gateway.config, opened.gateway.slots, [whole, streamed])
    }
    assert checked[f"{MODEL}-1-stream"] == f"/v2/models/{name}/ready"
    assert checked[f"{MODEL}-1"] == f"/v2/models/{MODEL}/ready"
    assert f"{MODEL}-2-stream" not in checked
    opened.publish({1: 100})


def test_how_a_stream_ends_is_counted(opened: RunningGateway) -> None:
    ON.set()
    before = opened.counted(1)
    list(ask(opened, request()))
    with pytest.raises(grpc.RpcError, match="the answer broke off"):
        list(ask(opened, request(id="broken")))

    def counted() -> bool:
        after = opened.counted(1).since(before)
        return (after.answered, after.failed) == (2, 1) and after.timed >= 2

    assert wait_until(counted, 10), opened.counted(1).since(before)


def test_a_stream_shows_when_its_pieces_came_and_whether_it_was_cut_off(
    opened: RunningGateway,
) -> None:
    ON.set()
    opened.publish({2: 100})
    before = opened.gateway.traffic(MODEL, 2)
    for how in ("stop", "length", "stop"):
        assert len(list(ask(opened, request(id=how)))) == PIECES[how]

    def shown() -> tuple[int, ...]:
        after = opened.gateway.traffic(MODEL, 2).since(before)
        totals = (histogram_total(one) for one in (after.first_token, after.inter_token))
        return (after.ended, after.cut_off, *totals)

    assert wait_until(lambda: shown() == (3, 1, 3, 3), 10), shown()
    opened.publish({1: 100})
