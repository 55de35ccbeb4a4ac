"""The vLLM backend in a real Triton; the engine that its stubs share is real but for its vLLM."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import psutil
import pytest

from adire_assets.config.fleet import SlotConfig
from adire_assets.core import answer_token
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.waiting import wait_until
from adire_assets.families.causal_lm import FAMILY, serve_triton
from adire_assets.serving import answer_keys, release
from adire_assets.serving.connection import Endpoint, Unanswered
from adire_assets.serving.fleet import guard
from adire_assets.serving.fleet.triton import BACKENDS, SERVER
from adire_assets.serving.fleet.vllm import CODE
from adire_assets.serving.gateway.protocols import kserve_client
from tests.support.fake_engine import install
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]
MODEL = "letters"
TEXT = "cloth " * 150 + " "  # word by word
HI = {"prompt": "hi", "max_tokens": 32}
# Instead of a vLLM, the server that a vLLM runs on with the door before a slow engine.
RUN = """
import sys
from adire_vllm import shared
app = ("-m", "uvicorn", "--factory", "tests.support.fake_engine:slow_door")
shared.command = lambda engine, place, device: [sys.executable, *app, *place]
shared.main()
"""


ENGINE = {
    "command": [sys.executable, "-c", RUN],
    "environment": {"PYTHONPATH": f"{ROOT}:{CODE}", "ADIRE_DEVICE": "cpu", "PATH": os.defpath},
    "start_seconds": 60,
}


class Slot:
    """A Triton on a slot's folder, which is `told` how to start an engine, or by default a vLLM."""

    def __init__(self, root: Path, told: Mapping[str, Any]) -> None:
        self.folder = root / "slot"
        ports = {name: free_port() for name in ("grpc_port", "http_port", "metrics_port")}
        self.config = SlotConfig(**ports)
        self.endpoint = Endpoint(f"127.0.0.1:{self.config.grpc_port}")
        self.mark = guard.mark(self.folder)
        self.project = Project(root, root / ".adire")
        answer_keys.ensure(self.project)
        command = SERVER.command(self.project, self.folder, self.config, [])
        own = {guard.MARK: self.mark, **({"ADIRE_ENGINE": json.dumps(told)} if told else {})}
        self.log = (root / "triton.log").open("wb")
        self.process = subprocess.Popen(
            command,
            env=SERVER.environment("cpu", 1) | own | answer_keys.environment(self.project),
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

        def live() -> bool:
            try:
                SERVER.require_live(self.config, 1)
            except UserError:
                return False
            return True

        assert wait_until(live, 60, alive=lambda: self.process.poll() is None)

    def put(self, number: int, model: str = MODEL, **more: Any) -> set[int]:
        install(self.folder, number, model, **more)
        text = (FAMILY.backend / "config.pbtxt").read_text()
        (self.folder / "models" / model / "config.pbtxt").write_text(
            Template(text).substitute(name=model)
        )
        return self.reconcile(model)

    def reconcile(self, model: str = MODEL) -> set[int]:
        return SERVER.reconcile(self.config, self.folder, model, 60)

    def stubs(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [one for one in children if one.name() == "triton_python_backend_stub"]

    def engine(self) -> list[psutil.Process]:
        """The engine's processes, of whomever they are children now."""
        found = guard.with_variable("ADIRE_ENGINE_SOCKET", f"/dev/shm/{self.mark}engine.sock")
        return sorted(found, key=lambda one: one.pid)

    def held(self) -> dict[str, list[int]]:
        """What the engine serves, asked as a stub does."""
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(BACKENDS / "vllm")
            patch.setenv(guard.MARK, self.mark)
            patch.setenv("ADIRE_ENGINE", json.dumps(ENGINE))
            engine = import_module("shared_engine").SharedEngine(self.folder)
        with engine.used:
            return engine.held()["held"]

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        guard.remove_remains(self.mark)
        self.log.close()


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    made = Slot(tmp_path, ENGINE)
    try:
        yield made
    finally:
        made.end()


def pieces(slot: Slot, release: int | None = None, **more: object) -> Iterator:
    given = serve_triton.inputs({**HI, **more})
    return kserve_client.stream(slot.endpoint, MODEL, given, release, 20)


def test_an_answer_comes_in_pieces_and_says_where_it_comes_from(slot: Slot) -> None:
    assert slot.put(1) == {1}
    found = list(pieces(slot))
    assert len(found) == 151 and {one.release for one in found} == {1}
    assert serve_triton.content([one.content for one in found]) == TEXT
    told = found[-1].provenance
    assert (told["release"], told["release_hash"], told["device"]) == (1, "letters1", "cpu")
    assert told["request"]["messages"] == [{"role": "user", "content": "hi"}]
    assert found[-1].content["finish_reason"][0] == b"stop"
    token = told[answer_token.FIELD]
    claims = answer_token.verify(answer_keys.read(slot.project), token)
    assert claims.contents == (answer_token.digest(TEXT.encode()),)
    given = serve_triton.inputs(HI)
    whole = kserve_client.ask_stream(
        slot.endpoint, MODEL, given | {"stream": ~given["stream"]}, 1, 20
    )
    assert len(whole.content) == 1
    assert serve_triton.content(whole.content).split() == TEXT.split()


def test_versions_share_one_engine_which_ends_with_the_last_of_them(slot: Slot) -> None:
    slot.put(1)
    before = slot.engine()
    assert before and slot.put(2) == {1, 2}
    assert slot.engine() == before and len(slot.stubs()) == 2
    assert [next(pieces(slot, number)).release for number in (None, 1, 2)] == [2, 1, 2]
    (slot.folder / "models" / MODEL / "1").rename(slot.folder / "gone")
    assert slot.reconcile() == {2} and slot.engine() == before
    assert wait_until(lambda: slot.held() == {MODEL: [2]}, 20)
    with pytest.raises(Unanswered, match="version 1 is not at ready state"):
        next(pieces(slot, 1))
    assert len(list(pieces(slot))) == 151
    [stub] = slot.stubs()
    stub.kill()
    assert wait_until(lambda: not slot.engine(), 20)
    # As the fleet loads it afresh.
    release.remove(slot.folder, MODEL, 2)
    assert slot.put(2) == {2} and len(list(pieces(slot))) == 151


def test_many_are_answered_at_once(slot: Slot) -> None:
    slot.put(1)
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda _: len(list(pieces(slot))), range(8)))
    assert found == [151] * 8


def test_an_engine_that_is_killed_breaks_its_streams_off_and_comes_back(slot: Slot) -> None:
    slot.put(1)
    stream = pieces(slot)
    next(stream)
    before = slot.engine()
    for one in before:
        one.kill()
    with pytest.raises(Unanswered, match="ask again"):
        list(stream)
    assert wait_until(lambda: bool({*slot.engine()} - {*before}), 20)
    assert wait_until(lambda: _answers(slot), 30)


def test_a_request_that_cannot_be_answered_is_told_in_a_sentence(slot: Slot) -> None:
    slot.put(1)
    texts = {"text_input": b"hi", "sampling_parameters": b"{}"}
    cases = [
        ({}, "either text_input or messages"),
        ({**texts, "messages": b"[]"}, "either text_input or messages"),
        ({**texts, "sampling_parameters": b"[]"}, "is no JSON object"),
        ({**texts, "sampling_parameters": b"{"}, "sampling_parameters is no JSON"),
        ({**texts, "sampling_parameters": b'{"n": 2}'}, "n is not taken in"),
        ({**texts, "sampling_parameters": b'{"max_tokens": 99}'}, "allowed is 1 to 32"),
        ({"messages": b'[{"role": "judge", "content": ""}]'}, "no role of"),
        ({"text_input": b"\xff"}, "text_input is not UTF-8 text .byte 0"),
    ]
    for given, said in cases:
        asked = {name: np.array([value], np.object_) for name, value in given.items()}
        with pytest.raises(Unanswered, match=said):
            next(kserve_client.stream(slot.endpoint, MODEL, asked, None, 20))
    assert _answers(slot)


def test_without_a_vllm_a_release_does_not_load_and_the_sentence_says_what_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADIRE_VLLM", str(tmp_path))
    slot = Slot(tmp_path, {})
    try:
        with pytest.raises(UserError, match=r"there is no vLLM in .*: make its environment with"):
            slot.put(1)
    finally:
        slot.end()


def test_a_release_that_the_engine_does_not_serve_does_not_load(slot: Slot) -> None:
    slot.put(1)
    with pytest.raises(UserError, match="maximum_lora_rank 16"):
        slot.put(1, "silk", engine={"max_lora_rank": 16})
    assert _answers(slot)


def _answers(slot: Slot) -> bool:
    try:
        return next(pieces(slot)).release == 1
    except Unanswered:
        return False
