"""Images as they come into being: previews and progress of a live release, and giving up."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2_grpc

from adire_assets.core import answer_token
from adire_assets.core.answer import Answer
from adire_assets.core.waiting import wait_until
from adire_assets.families.diffusion import FAMILY, serve
from adire_assets.serving import answer_keys
from adire_assets.serving.client import stream
from adire_assets.serving.connection import Unanswered
from adire_assets.serving.fleet import guard, slot
from adire_assets.serving.fleet.triton import SERVER
from adire_assets.serving.gateway.protocols.kserve_client import _message
from tests.serving.conftest import MODEL
from tests.serving.test_requests import REFUSED
from tests.support.asking import generate
from tests.support.house import TARGET, House

ASKED = {"prompt": "rings", "seed": 5, "num_inference_steps": 6, "num_images": 2}
LONG = {"prompt": "rings", "num_inference_steps": 20, "num_images": 3}
STREAMS = f"{MODEL}_stream"


@pytest.fixture(scope="module")
def live(served: House) -> House:
    served.ensure_live(1)
    return served


def pieces(house: House, release: int | None = None, **asked: Any) -> list[Answer]:
    return [*stream(house.address, FAMILY, MODEL, {**ASKED, **asked}, release)]


def in_engine(house: House, name: str) -> dict[str, Any]:
    """What the engine of a slot says of itself."""
    [place] = Path("/dev/shm").glob(f"{guard.mark(house.slot_client(name).folder)}engine_*.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(place))
        connection.sendall(b'{"held": true}\n')
        return json.loads(connection.makefile("rb").readline())


def test_a_stream_shows_its_steps_and_ends_with_the_images(live: House) -> None:
    *on_the_way, last = pieces(live, preview_steps=2)
    whole = generate(live.address, MODEL, **ASKED)
    assert np.array_equal(last.content.images, whole.content)
    told = [{**answer.provenance} for answer in (last, whole)]
    assert [list(one.pop("engine_seconds")) for one in told] == [["denoising", "decoding"]] * 2
    keys = answer_keys.read(live.project)
    tokens = [answer_token.verify(keys, one.pop(answer_token.FIELD)) for one in told]
    assert tokens[0].id != tokens[1].id and tokens[0].contents == tokens[1].contents
    digests = [answer_token.digest(image.tobytes()) for image in whole.content]
    assert (tokens[0].model, tokens[0].release, [*tokens[0].contents]) == (MODEL, 1, digests)
    assert told[0] == told[1] and last.release == 1
    assert all((one.release, one.provenance["model"]) == (1, MODEL) for one in on_the_way)
    shown = [one.content for one in on_the_way]
    assert {one.steps for one in shown} == {12} and last.content.step == 12
    steps = [one.step for one in shown]
    assert steps == sorted(steps) and len(set(steps)) >= 6
    assert all(one.images is None for one in shown)
    previews = [one for one in shown if one.preview is not None]
    assert sorted(one.image for one in previews) == [0, 0, 1, 1]
    assert {one.preview.shape for one in previews} == {(64, 64, 3)}
    # Without previews, progress alone.
    alone = [one.content for one in pieces(live)]
    assert all(one.preview is None for one in alone) and len(alone) > 6
    assert np.array_equal(alone[-1].images, whole.content)


def test_a_bad_input_is_a_sentence_and_the_stream_lives_on(live: House) -> None:
    refused = [*REFUSED, ({"preview_steps": 7}, "preview_steps is 7, allowed is 0 to 6")]
    asked: SimpleQueue = SimpleQueue()
    with grpc.insecure_channel(live.live_slot_client.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter(asked.get, None))
        for values, sentence in refused:
            asked.put(_message(STREAMS, serve.inputs({**ASKED, **values}), None))
            assert next(call).error_message.startswith(sentence)
        asked.put(_message(STREAMS, serve.inputs(ASKED), None))
        asked.put(None)
        assert not any(one.error_message for one in call)
    # A gateway ends the stream with a status, which counts as the client's mistake.
    before = live.gateway.traffic(MODEL, 1)
    with pytest.raises(Unanswered, match="preview_steps is 7, allowed is 0 to 6") as caught:
        pieces(live, preview_steps=7)
    assert caught.value.status == "INVALID_ARGUMENT"

    def counted() -> tuple[int, int, int]:
        found = live.gateway.traffic(MODEL, 1).since(before)
        return found.answered, found.failed, found.refused

    assert wait_until(lambda: counted() == (0, 0, 1), 10), counted()
    pieces(live)
    assert wait_until(lambda: counted() == (1, 0, 1), 10), counted()


def test_streams_that_are_given_up_leave_nothing(live: House) -> None:
    name, end = live.record.active or "", pieces(live)[-1].content.images
    before = in_engine(live, name)

    def give_up(seed: int) -> None:
        call = stream(live.address, FAMILY, MODEL, {**LONG, "seed": seed})
        next(call)
        call.close()

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(give_up, range(50)))
    assert wait_until(lambda: in_engine(live, name)["waiting"] == 0, 10)
    assert in_engine(live, name) == before and before["adapters"].count(f"{MODEL}@1") == 1
    assert np.array_equal(pieces(live)[-1].content.images, end)


def test_streams_come_and_go_with_their_release(live: House) -> None:
    live.deploy(2)
    answers = [pieces(live)[-1], pieces(live, release=1)[-1]]
    assert [one.release for one in answers] == [2, 1]
    assert not np.array_equal(*(one.content.images for one in answers))
    live.roll_back()
    assert pieces(live)[-1].release == 1 and live.differences() == []
    for name, number in live.record.slots.items():
        assert SERVER.held(live.slot_client(name).config, STREAMS) == {number}
        only = [f"{MODEL}@{number}"]
        assert wait_until(lambda: in_engine(live, name)["adapters"] == only, 10)  # noqa: B023


def test_streams_whose_process_has_died_are_seen_and_mended(live: House) -> None:
    stubs = live.processes(live.record.active)
    [stub] = [one for one in stubs if f"/{STREAMS}/" in " ".join(one.cmdline())]
    stub.kill()
    psutil.wait_procs([stub], 10)
    [difference] = live.differences()
    assert difference.startswith(f"release 1 of {MODEL} is live and does not answer")
    live.deploy(1)
    assert live.differences() == [] and pieces(live)[-1].release == 1


def test_a_slot_that_starts_again_has_the_streams(live: House, tmp_path: Path) -> None:
    name, folder = live.record.active or "", tmp_path / "slot"
    for _ in range(2):
        assert slot.reconcile(live.project, TARGET, name, folder) == [MODEL]
        assert (folder / "models" / STREAMS / "1" / "provenance.json").is_file()
    command = SERVER.command(live.project, folder, live.slot_client(name).config, [MODEL])
    assert {f"--load-model={MODEL}", f"--load-model={STREAMS}"} <= {*command}
