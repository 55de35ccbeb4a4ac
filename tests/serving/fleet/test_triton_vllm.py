"""Real vLLMs inside real Tritons behind the real gateway: streamed, canaried, cleaned up."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from adire_assets.core.waiting import wait_until
from adire_assets.serving.client import ask
from adire_assets.serving.connection import Endpoint, Unanswered
from adire_assets.serving.fleet import guard, parity
from adire_assets.serving.gateway.protocols import kserve_client
from adire_assets.serving.release import family_of_release
from tests.line.toy import write_yaml
from tests.serving.fleet.test_vllm import ROLLOUT
from tests.support.letters_house import MODEL, LettersHouse, add_letters, letters_house

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
HI = {"prompt": "Write to Ada.", "max_tokens": 32, "temperature": 0.0}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LettersHouse]:
    """Release 1 is live, 2 is another one."""
    made = letters_house(tmp_path_factory.mktemp("letters") / "project", ROLLOUT, "triton")
    add_letters(made, 60)
    add_letters(made, 64)
    with made.up():
        made.deploy(1)
        yield made


def asked(house: LettersHouse, release: int | None = None) -> Any:
    plug = family_of_release(house.project, house.releases[1])
    return ask(house.address, plug, MODEL, HI, release)


def engine_of(house: LettersHouse, name: str) -> list[str]:
    """The processes of a slot that are a vLLM's."""
    mark = guard.mark(house.slot_client(name).folder)
    found = guard.with_variable("ADIRE_ENGINE_SOCKET", f"/dev/shm/{mark}engine.sock")
    names = []
    for one in found:
        with suppress(psutil.NoSuchProcess):  # it may end meanwhile
            names.append(one.name())
    return names


def test_the_streamed_answers_are_the_evaluated_ones(house: LettersHouse) -> None:
    assert house.differences() == []
    facts = parity.compare_at(house.project, house.releases[1], house.address, print)
    assert facts["passed"] and facts["equal"] == 2 and facts["software"]["vllm"], facts
    plug = family_of_release(house.project, house.releases[1])
    inputs = plug.serve.functions.inputs(HI)
    pieces = list(kserve_client.stream(Endpoint(house.address), MODEL, inputs, None, 60))
    assert len(pieces) > 1 and {one.release for one in pieces} == {1}
    whole = asked(house)
    assert whole.content == plug.serve.functions.content([one.content for one in pieces])
    told = whole.provenance
    assert told["release_hash"] == house.releases[1].repository["content_hash"]
    assert told["request"]["max_tokens"] == 32


def test_the_client_of_the_page_is_answered(house: LettersHouse) -> None:
    """The example in docs/language-models.md, as it stands there."""
    page = (ROOT / "docs" / "language-models.md").read_text()
    [code] = re.findall(r"(?s)```python\n(import json.*?)```", page)
    code = code.replace("127.0.0.1:8080", house.address).replace("adire_letters", MODEL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    plug = family_of_release(house.project, house.releases[1])
    request = {**HI, "max_tokens": 64}
    assert done.stdout == ask(house.address, plug, MODEL, request).content


@pytest.mark.parametrize("command", [("generate", "--model", MODEL), ("chat", MODEL)])
def test_the_command_line_asks_it(house: LettersHouse, command: tuple[str, ...]) -> None:
    root = house.project.root
    fleet = house.fleet.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    write_yaml(root / "configs" / "fleet.yaml", fleet)
    words = (*command, HI["prompt"], "--max-tokens", "32", "--temperature", "0")
    done = subprocess.run(
        [sys.executable, "-m", "adire_assets.cli", *words],
        cwd=root,
        env={**os.environ, "ADIRE_HOME": str(house.project.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(asked(house).content)
    if "chat" in command:
        told = f"letters@1 manifest {house.releases[1].repository['content_hash']}"
        assert done.stderr.strip() == told


def test_a_release_that_is_not_there_is_refused(house: LettersHouse) -> None:
    with pytest.raises(Unanswered, match="not loaded; loaded: 1"):
        asked(house, 7)


def test_the_idle_slot_checks_a_release_and_keeps_what_it_holds(house: LettersHouse) -> None:
    facts = parity.compare_in_idle_slot(house.project, house.fleet, house.releases[2], print)
    assert facts and facts["passed"], facts
    assert house.differences() == []


def test_a_canary_goes_live_and_comes_back(house: LettersHouse) -> None:
    assert house.deploy(2).live == 2
    assert asked(house).release == 2 and asked(house, 2).release == 2
    assert house.roll_back().live == 1
    assert asked(house).release == 1


def test_a_killed_stub_leaves_no_engine_and_is_loaded_afresh(house: LettersHouse) -> None:
    active = house.record.active
    assert active and engine_of(house, active)
    stubs = [one for one in house.processes(active) if one.name() != "tritonserver"]
    for stub in stubs:
        stub.kill()
    assert wait_until(lambda: not engine_of(house, active), 30)
    house.deploy(1)
    assert house.differences() == [] and engine_of(house, active)
    assert asked(house).release == 1
