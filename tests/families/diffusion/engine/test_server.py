"""Releases of one base share a process that draws, whichever of them comes, goes or is killed."""

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from adire_assets.core import lineage
from adire_assets.core.waiting import wait_until
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.engine import client
from adire_assets.families.diffusion.engine.adapter_layers import ADAPTER_FILE
from adire_assets.families.diffusion.engine.client import EngineClient, Refused
from adire_assets.families.diffusion.engine.sampling import Request, Sampler
from adire_assets.families.diffusion.engine.turns import Turns
from tests.support import adapters as made

ASKED = Request("circles", "", 3, 3, 4.0)
LONG = Request("circles", "", 3, 900, 4.0)


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases of cloth on a base, and one of silk, whose adapter is for another."""
    slot = tmp_path_factory.mktemp("slot")
    base = slot / "base_models" / "plain"
    made.make_base(base / "pipeline", "sd15")
    (base / "base.json").write_text('{"variant": null}')
    other = made.make_base(slot / "other", "sd15", cross_attention_dim=48)
    for name, seed, on in (("cloth/1", 1, base / "pipeline"), ("cloth/2", 2, base / "pipeline"),
                           ("silk/1", 3, other)):  # fmt: skip
        version = slot / "models" / name
        version.mkdir(parents=True)
        for module, source in lineage.sources(FAMILY.release.modules).items():
            shutil.copyfile(source, version / f"{module.rpartition('.')[2]}.py")
        (version / "serving.json").write_text("{}")
        made.make_adapter(version / "adapter", on, unet=made.ATTENTION, text=[], seed=seed)
    return slot


@pytest.fixture(scope="module")
def started(slot: Path) -> Iterator[None]:
    """The engine, which ends with its last release and takes long to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(client.PYTHON, sys.executable)
        patch.setenv("ADIRE_DEVICE", "cpu")
        patch.setenv("ADIRE_THREADS", "1")
        patch.setenv("ADIRE_DEVICE_LOCK", str(slot / "lock"))
        first = EngineClient(slot / "models/cloth/1", slot / "base_models/plain", "first", 8)
        first.attach(lambda error: None)
        pid = held(first)["pid"]
        yield
        if first.adapter is not None:
            pid = held(first)["pid"]
        first.close()
    assert wait_until(lambda: not running(pid), 20), "an engine is left"


@pytest.fixture
def attached(slot: Path, started: None) -> Iterator[Any]:
    """A function that attaches a release to its engine."""
    clients: list[EngineClient] = []

    def attach(name: str) -> Any:
        folder = slot / "models" / name
        model, _, number = name.partition("/")
        told = {"model": model, "release": int(number)}
        base = slot / "base_models" / "plain"
        found = EngineClient(folder, base, f"{model}@{number}", 8, told)
        clients.append(found)
        lost: list[Exception | None] = []
        found.attach(lost.append)
        return SimpleNamespace(client=found, software=found.software, lost=lost, folder=folder)

    yield attach
    for one in clients:
        one.close()


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def held(asked: EngineClient) -> dict[str, Any]:
    with client._connected(asked.socket) as connection:
        connection.sendall(b'{"held": true}\n')
        return json.loads(connection.makefile("rb").readline())


def draw(one: Any, request: Request = ASKED, **options: Any) -> np.ndarray:
    [(event, pixels)] = one.client.draw(asdict(request), lambda: False, **options)
    return np.frombuffer(pixels, np.uint8).reshape(event["shape"])


def expected(one: Any) -> np.ndarray:
    base = one.client.base / "pipeline"
    return Sampler(base, adapter=one.folder / "adapter", device="cpu").generate([ASKED])[0]


def difference(images: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(images.astype(int) - other).max())


def test_releases_of_one_base_share_an_engine_and_draw_what_each_is(attached: Any) -> None:
    one, two = attached("cloth/1"), attached("cloth/2")
    assert held(one.client) == held(two.client)
    assert wait_until(lambda: held(one.client)["adapters"] == ["cloth@1", "cloth@2", "first"], 10)
    assert one.software == two.software
    assert (one.software["device"], one.software["threads"]) == ("cpu", "1")
    with ThreadPoolExecutor() as pool:
        both = [*pool.map(draw, [one, two] * 4)]
    wanted = [expected(one), expected(two)]
    assert difference(*wanted) > 20
    for images, other in zip(both, wanted * 4, strict=True):
        assert difference(images, other) <= 2
    # Weighted mixes go by name, a model's by what came last of it.
    [(event, pixels)] = one.client.draw(
        asdict(ASKED), lambda: False, mix={"cloth@1": 0.5, "cloth": 0.5}
    )
    mixed = np.frombuffer(pixels, np.uint8).reshape(event["shape"])
    assert event["adapters"] == [
        {"model": "cloth", "release": 1, "weight": 0.5},
        {"model": "cloth", "release": 2, "weight": 0.5},
    ]
    assert all(difference(mixed, other) > 2 for other in wanted)
    assert difference(draw(two, mix={"cloth@1": 1.0}), wanted[0]) <= 2
    says = "no adapter silk on this base with .*; held are: cloth@1, cloth@2, first"
    with pytest.raises(Refused, match=says):
        draw(one, mix={"silk": 1.0})
    with pytest.raises(Refused, match="the weights of the adapters sum to nothing"):
        draw(one, mix={"cloth": 0.0})
    with pytest.raises(Refused, match="the adapter cloth@2 is named twice"):
        draw(one, mix={"cloth": 1.0, "cloth@2": 1.0})


def test_a_base_in_8_bits_as_a_release_says_has_an_engine_of_its_own(
    attached: Any, slot: Path
) -> None:
    """Whatever asks for the engine need not know of it, such as a model.py of before."""
    one, base = attached("cloth/1"), slot / "base_models" / "plain"
    folder = shutil.copytree(one.folder, slot / "models" / "cloth" / "3")
    (folder / "serving.json").write_text('{"quantization": "int8"}')
    held_so = EngineClient(folder, base, "cloth@3", 8)
    try:
        held_so.attach(lambda error: None)
        assert held(held_so)["pid"] != held(one.client)["pid"]
        [(event, pixels)] = held_so.draw(asdict(ASKED), lambda: False)
    finally:
        held_so.close()
    images = np.frombuffer(pixels, np.uint8).reshape(event["shape"]).astype(int)
    sampler = Sampler(
        base / "pipeline", adapter=one.folder / "adapter", device="cpu", quantization="int8"
    )
    wanted, whole = sampler.generate([ASKED])[0], expected(one)
    assert difference(images, wanted) <= 2
    # 8 bits change so small a base by a level here and there, another sum next to nothing.
    assert np.abs(images - wanted).sum() < np.abs(images - whole).sum() / 2


def test_an_adapter_for_another_base_does_not_load_and_harms_nobody(attached: Any) -> None:
    one = attached("cloth/1")
    with pytest.raises(Refused, match=r"does not fit a weight of .*; is it for another base"):
        attached("silk/1")
    assert difference(draw(one), expected(one)) <= 2


def test_an_adapter_that_cannot_be_read_is_told(attached: Any, slot: Path) -> None:
    one, other = attached("cloth/1"), slot / "models" / "cloth" / "9"
    (other / "adapter").mkdir(parents=True)
    for file in (*one.folder.glob("*.py"), one.folder / "serving.json"):
        shutil.copyfile(file, other / file.name)
    with pytest.raises(Refused, match="cloth/9/adapter cannot be read: No such file"):
        attached("cloth/9")
    (other / "adapter" / ADAPTER_FILE).write_bytes(b"no tensors")
    with pytest.raises(Refused, match="cloth/9/adapter cannot be read: "):
        attached("cloth/9")


def test_who_holds_nothing_at_an_engine_is_told_and_holds_again(attached: Any) -> None:
    one = attached("cloth/1")
    one.client.adapter = "of another engine"
    with pytest.raises(ConnectionError, match="does not hold the release"):
        draw(one)
    assert wait_until(lambda: one.client.adapter not in (None, "of another engine"), 10)
    assert one.lost == [None] and difference(draw(one), expected(one)) <= 2


def test_a_second_engine_leaves_the_first_one_alone(attached: Any) -> None:
    one = attached("cloth/1")
    second = one.client._start()
    assert second.wait(60) == client.ALREADY
    assert difference(draw(one), expected(one)) <= 2


def test_an_adapter_comes_while_a_pass_runs(slot: Path, attached: Any) -> None:
    one = attached("cloth/1")
    with ThreadPoolExecutor() as pool, Turns(slot / "lock"):  # for which the engine waits
        drawing = pool.submit(draw, one)
        assert wait_until(lambda: held(one.client)["waiting"] == 1, 10)
        two = pool.submit(attached, "cloth/2").result(30)
    assert difference(drawing.result(), expected(one)) <= 2
    assert difference(draw(two), expected(two)) <= 2


def test_an_adapter_is_held_as_long_as_its_release(attached: Any) -> None:
    one, two = attached("cloth/1"), attached("cloth/2")
    two.client.close()
    assert wait_until(lambda: held(one.client)["adapters"] == ["cloth@1", "first"], 10)
    assert difference(draw(one), expected(one)) <= 2 and not two.lost


def test_who_gives_up_frees_the_place_at_once(attached: Any) -> None:
    one = attached("cloth/1")
    engine = psutil.Process(held(one.client)["pid"])
    before = engine.num_fds(), engine.num_threads()
    gives_up = threading.Event()

    def ask(_: int) -> None:
        with pytest.raises(client.Cancelled):
            list(one.client.draw(asdict(LONG), gives_up.is_set))

    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(ask, number) for number in range(50)]
        assert wait_until(lambda: held(one.client)["waiting"] == 50, 30)
        gives_up.set()
        for each in asked:
            each.result()
    assert wait_until(lambda: held(one.client)["waiting"] == 0, 10)
    assert wait_until(lambda: engine.num_fds() <= before[0], 10)
    assert wait_until(lambda: engine.num_threads() <= before[1], 10)


def test_previews_are_streamed(attached: Any) -> None:
    one = attached("cloth/1")
    events = [*one.client.draw(asdict(ASKED), lambda: False, preview_steps=1)]
    assert [(event["preview"], event["step"], event["steps"]) for event, _ in events[:-1]] == [
        (0, 1, 3), (0, 2, 3),
    ]  # fmt: skip
    assert all(len(pixels) == 64 * 64 * 3 for _, pixels in events)
    assert events[-1][0]["left_out"] == {}


def test_each_pass_is_told_and_who_gives_up_between_them_is_heard(attached: Any) -> None:
    one = attached("cloth/1")
    both = {**asdict(ASKED), "num_images": 2}
    events = [event for event, _ in one.client.draw(both, lambda: False, progress=True)]
    assert {event["steps"] for event in events} == {6} and events[-1]["step"] == 6
    assert [event["step"] for event in events[:-1]] == [2, 4, 6]
    with_one = one.client.draw(asdict(ASKED), lambda: False, progress=True, preview_steps=2)
    assert [("preview" in event, event["step"]) for event, _ in with_one] == [
        (False, 1), (True, 2), (False, 3), (False, 3),
    ]  # fmt: skip
    gives_up: list[int] = []
    with pytest.raises(client.Cancelled):
        for event, _ in one.client.draw(asdict(LONG), lambda: bool(gives_up), progress=True):
            assert not gives_up
            gives_up.append(event["step"])
    assert wait_until(lambda: held(one.client)["waiting"] == 0, 5)


def test_a_release_and_its_streams_hold_an_adapter_once(attached: Any) -> None:
    one = attached("cloth/1")
    engine = psutil.Process(held(one.client)["pid"])
    assert wait_until(lambda: held(one.client)["adapters"] == ["cloth@1", "first"], 10)
    before = engine.num_threads()  # those that have just answered may still be among them
    again = [attached("cloth/1") for _ in range(5)]
    assert {each.client.adapter for each in again} == {one.client.adapter}
    assert held(one.client)["adapters"] == ["cloth@1", "first"]
    for each in again:
        each.client.close()
    assert wait_until(lambda: engine.num_threads() <= before, 10)
    assert difference(draw(one), expected(one)) <= 2 and not one.lost


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_text_that_is_too_long_is_told_or_refused(attached: Any, name: str) -> None:
    one = attached("cloth/1")
    long = {**asdict(ASKED), name: "a long tale of indigo " * 20}
    [(event, _)] = one.client.draw(long, lambda: False)
    assert list(event["left_out"]) == [name] and event["left_out"][name].endswith("indigo")
    with pytest.raises(Refused, match=f"^{name} is longer than the text encoder reads; leave out"):
        list(one.client.draw(long, lambda: False, truncation=False))


def test_engines_of_one_device_run_their_passes_in_turns(tmp_path: Path) -> None:
    """Who has just had a turn comes after the one who waits."""
    turns: list[int] = []
    waiting = threading.Event()

    def work(number: int) -> None:
        mine = Turns(tmp_path / "device")
        for _ in range(50):
            with mine:
                turns.append(number)
                waiting.wait(0.002)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = turns[5:-5]
    changes = sum(one != other for one, other in pairwise(both))
    assert changes > len(both) / 2


def test_a_killed_engine_is_started_again_and_what_it_drew_is_told(attached: Any) -> None:
    one, two = attached("cloth/1"), attached("cloth/2")
    before = held(one.client)["pid"]
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(draw, two, LONG)
        assert wait_until(lambda: held(one.client)["waiting"] == 1, 10)
        os.kill(before, signal.SIGKILL)
        assert isinstance(asked.exception(), OSError)

    def drawn() -> bool:
        try:
            return difference(draw(one), expected(one)) <= 2 and draw(two).any()
        except OSError:
            return False

    assert wait_until(drawn, 60)
    assert one.lost[0] is None and held(one.client)["pid"] != before
    assert wait_until(lambda: held(one.client)["adapters"] == ["cloth@1", "cloth@2", "first"], 10)


def test_an_engine_that_hangs_in_its_turn_does_not_hang_the_others(tmp_path: Path) -> None:
    hanging, other = (Turns(tmp_path / "device", seconds=0.2) for _ in range(2))
    with hanging:
        for _ in range(3):
            with other:
                assert not other.waits
        assert not other.waits, "it would wait again for a turn that does not come"
    with other:
        assert other.waits


def shown(one: Any) -> dict[str, float]:
    """What the engine tells the slot's page of metrics; labels without its name."""
    with client._connected(Path(one.client.socket).with_suffix(".metrics")) as connection:
        lines = [line.split(" ") for line in connection.makefile().read().splitlines()]
    return {re.sub(r'engine="[^"]*",?', "", name): float(value) for name, value in lines}


def test_what_is_computed_and_drawn_is_counted_for_its_release(attached: Any) -> None:
    one, two = attached("cloth/1"), attached("cloth/2")
    first, second = (f'model="cloth",release="{number}"' for number in (1, 2))
    busy, made = "adire_busy_seconds_total{%s}", 'adire_made_total{%s,unit="image"}'
    before = shown(one)
    assert before[made % second] >= 0, "a counter begins before its release is asked"
    assert before[f"adire_load_seconds{{{second}}}"] > 0 < before["adire_engine_load_seconds{}"]
    began = time.monotonic()
    [(told, _)] = one.client.draw({**asdict(ASKED), "num_images": 3}, lambda: False)
    taken = time.monotonic() - began
    names = (busy % first, made % first, 'adire_images_by_steps_total{steps="4"}')

    def risen(names: Sequence[str]) -> list[float]:
        after = shown(one)
        return [after[name] - before[name] for name in names]

    assert wait_until(lambda: risen(names)[1] == 3, 5)
    seconds, _, images = risen(names)
    assert seconds == pytest.approx(sum(told["seconds"].values())) and images == 3
    waited = risen(['adire_image_seconds_by_steps_total{steps="4"}'])[0]
    assert 3 * seconds <= waited <= 3 * taken
    assert risen([busy % second, made % second]) == [0, 0]
    # A mix is divided by its weights.
    draw(two, mix={"cloth@1": -0.5, "cloth@2": 1.5})
    assert wait_until(lambda: risen([made % first, made % second]) == [3.25, 0.75], 5)
    # What was given up has taken time, and made nothing.
    before = shown(one)
    steps = ["adire_image_steps_total{}"]
    with pytest.raises(client.Cancelled):
        list(two.client.draw(asdict(LONG), lambda: risen(steps)[0] > 2))
    assert wait_until(lambda: risen([busy % second])[0] > 0, 30)
    assert risen([made % second]) == [0]
