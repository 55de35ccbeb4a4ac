"""Whatever clients send, two real Tritons behind the gateway stay up and blameless."""

import json
import random
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from tritonclient.grpc import service_pb2

from adire_assets.core.waiting import wait_until
from adire_assets.serving.gateway.protocols.kserve import HEALTH
from adire_assets.serving.gateway.served import ServedModel
from tests.support import malformed
from tests.support.asking import generate
from tests.support.running_gateway import MODEL, PROMPT, SOUND, RunningGateway, before
from tests.support.small_triton import small_triton

INFER = f"/v2/models/{MODEL}/infer"
# The client's own mistakes, in gRPC's words.
CLIENT = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    root = tmp_path_factory.mktemp("malformed")
    with (
        small_triton(root, MODEL, 1) as blue,
        small_triton(root, MODEL, 2) as green,
        before(root, blue, green) as made,
    ):
        made.gateway.publish([ServedModel(MODEL, {1: "blue", 2: "green"}, {1: 50, 2: 50})])
        assert wait_until(lambda: all(_answers(made, number) for number in (1, 2)), 20)
        yield made


def _sound(**fields) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=MODEL, **fields)
    request.inputs.add(name="prompt", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(b"\6\0\0\0indigo")
    return request


def _answers(opened: RunningGateway, number: int) -> bool:
    return opened.raw(_sound(model_version=str(number)).SerializeToString()) == "OK"


def _blameless(opened: RunningGateway, failed: int = 0) -> None:
    """Both servers answer, and nothing was counted against either."""
    for number in (1, 2):
        assert _answers(opened, number)
        found = opened.counted(number)
        assert (found.failed, found.ejected) == (failed, 0), (number, found)
    assert opened.blue.alive() and opened.green.alive()


def test_sound_requests_of_every_form_are_answered(opened: RunningGateway):
    everything = _sound(id="7")
    for name, (datatype, content) in malformed.INPUTS.items():
        everything.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        everything.raw_input_contents.append(content)
    everything.outputs.add(name="release")
    typed = service_pb2.ModelInferRequest(model_name=MODEL)
    typed.inputs.add(name="prompt", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(
        "àdìrẹ".encode()
    )
    typed.inputs.add(name="seed", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(-1)
    typed.inputs.add(
        name="guidance_scale", datatype="FP32", shape=[1, 1]
    ).contents.fp32_contents.append(1.5)
    for request in (everything, typed):
        assert opened.raw(request.SerializeToString()) == "OK"
    rich = {
        "id": "7",
        "parameters": {"binary_data_output": False},
        "inputs": [
            PROMPT | {"data": ['\u00e0 "d" \\ \n \U0001f600']},
            {"name": "seed", "datatype": "INT64", "shape": [1, 1], "data": [[-5]]},
            {"name": "guidance_scale", "datatype": "FP32", "shape": [1, 1], "data": [1.5e0]},
        ],
        "outputs": [{"name": "release", "parameters": {"binary_data": False}}],
    }
    for text in (json.dumps(rich, indent=2), json.dumps(rich, ensure_ascii=False)):
        status, answer = opened.http(INFER, text.encode())
        assert (status, answer["outputs"][0]["name"]) == (200, "release")
    described = PROMPT | {"parameters": {"binary_data_size": 10}}
    del described["data"]
    text = json.dumps({"inputs": [described]})
    body, header = (
        text.encode() + b"\6\0\0\0indigo",
        {"inference_header_content_length": str(len(text))},
    )
    assert opened.http(INFER, body, **header)[0] == 200
    assert generate(opened.gateway.address, MODEL, "indigo", seed=7, release=2).release == 2
    for name in ("ServerLive", "ServerReady", "ServerMetadata"):
        assert opened.raw(b"", f"/inference.GRPCInferenceService/{name}") == "OK"
    assert opened.raw(b"", HEALTH) == "OK"
    for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
        assert opened.http(path)[0] == 200
    for path in ("", "/ready", "/config", "/versions/2", "/versions/2/ready"):
        assert opened.http(f"/v2/models/{MODEL}{path}")[0] == 200


def test_a_thousand_malformed_requests_harm_no_triton(opened: RunningGateway):
    rng = random.Random(0)
    codes: Counter = Counter()
    for _ in range(500):
        body = malformed.grpc_request(rng, MODEL)
        code = opened.raw(body)
        assert code in CLIENT | {"OK"}, (code, body)
        body, headers = malformed.http_request(rng)
        status, answer = opened.http(INFER, body, **headers)
        assert status == 200 or (400 <= status < 500 and answer["error"]), (status, body, headers)
        codes.update([code, status])
    assert codes["OK"] < 100 and codes[200] < 100, codes
    _blameless(opened)


@pytest.mark.parametrize("holder", ["request", "input", "output"])
def test_parameters_that_a_triton_acts_upon_do_not_reach_one(opened: RunningGateway, holder: str):
    # A classification of texts ends a Triton; a timeout makes it answer UNAVAILABLE.
    for name in ("classification", "timeout", "shared_memory_region"):
        request = _sound()
        output = request.outputs.add(name="provenance")
        where = {"request": request, "input": request.inputs[0], "output": output}[holder]
        where.parameters[name].int64_param = 1
        assert opened.raw(request.SerializeToString()) == "INVALID_ARGUMENT"
        members = {"request": {}, "input": dict(PROMPT), "output": {"name": "provenance"}}
        members[holder]["parameters"] = {name: 1}
        body = members["request"] | {"inputs": [members["input"]], "outputs": [members["output"]]}
        assert opened.http(INFER, json.dumps(body).encode())[0] == 400
    _blameless(opened)


def test_methods_and_headers_that_a_triton_trips_over_do_not_reach_one(opened: RunningGateway):
    for method in ("PUT", "DELETE", "GET"):
        assert opened.http(INFER, SOUND, method=method)[0] == 405
    assert opened.http(f"/v2/models/{MODEL}/ready", SOUND)[0] == 405
    assert opened.http(INFER, SOUND, content_encoding="gzip")[0] == 415
    assert opened.http("/inference.GRPCInferenceService/ServerLive", b"x")[0] == 415
    assert opened.http("/v2/health/live?x=1")[0] == 200
    assert opened.raw(b"", f"{HEALTH}?x=1") == "OK"
    assert opened.http(INFER, SOUND, content_type="application/grpc")[0] == 200
    long = _sound(id="x" * 500).SerializeToString()
    assert opened.raw(long) == "OK"
    assert opened.raw(long, compression=grpc.Compression.Gzip) == "INVALID_ARGUMENT"
    for name in ("ServerLive", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig"):
        method = f"/inference.GRPCInferenceService/{name}"
        assert opened.raw(b"\xff\xff", method) == "INVALID_ARGUMENT"
    _blameless(opened)


def test_a_triton_whose_stub_has_died_is_taken_out(opened: RunningGateway):
    """It says of itself that it is ready, which is why what it answers must count."""
    _blameless(opened)
    opened.blue.kill_stub()
    sound = _sound().SerializeToString()
    end = wait_until(
        lambda: opened.raw(sound) == "INTERNAL" and opened.counted(1).ejected > 0, 30, pause=0
    )
    assert end and opened.counted(1).failed >= 5
    assert opened.http(f"/v2/models/{MODEL}/versions/1/ready")[0] == 200
    assert [opened.raw(sound) for _ in range(20)] == ["OK"] * 20
    assert (opened.counted(2).failed, opened.counted(2).ejected) == (0, 0)
