"""Requests join and leave the passes of an engine, and no image tells who was there with it."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.engine import engine as engine_module
from adire_assets.families.diffusion.engine.adapters import AdapterGone, Mix, mix_of
from adire_assets.families.diffusion.engine.drawings import Drawing, Request
from adire_assets.families.diffusion.engine.engine import Engine
from adire_assets.families.diffusion.engine.sampling import open_engine
from tests.support import adapters as made
from tests.support import tiny

LARGEST = 2  # levels of 255
KINDS: dict[str, dict[str, Any]] = {
    "small": {"unet": made.ATTENTION, "text": []},
    "large": {"unet": made.ATTENTION, "text": made.TEXT_ATTENTION, "r": 16},
    "rslora": {"unet": ["to_k", "conv1"], "text": [], "use_rslora": True},
    "dora": {"unet": made.ATTENTION, "text": made.TEXT_ATTENTION, "use_dora": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    made.make_base(folder / "base", "sd15")
    for number, (name, settings) in enumerate(KINDS.items()):
        made.make_adapter(folder / name, folder / "base", seed=number, **settings)
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path) -> Engine:
    engine = open_engine(folder / "base", None, "cpu", batch_images=8)
    for name in KINDS:
        engine.adapters.add(name, engine.adapters.read(folder / name))
    return engine


@pytest.fixture
def engine(opened: Engine) -> Iterator[Engine]:
    opened.batch_images = opened.decoded_images = 8
    opened._fitting.clear()
    yield opened
    assert not opened.step() and opened.waiting == 0, "something is left in the engine"


def finish(engine: Engine) -> None:
    while engine.step():
        pass


def drawn(engine: Engine, request: Request, mix: Mix = ()) -> np.ndarray:
    drawing = engine.submit(request, mix)
    finish(engine)
    assert drawing.error is None
    return drawing.images


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def passes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each pass of the denoiser has had, from now on."""
    seen: list[int] = []
    denoise = engine.model.denoise

    def counted(noisy: torch.Tensor, *given: Any) -> torch.Tensor:
        seen.append(len(noisy))
        return denoise(noisy, *given)

    monkeypatch.setattr(engine.model, "denoise", counted)
    return seen


@pytest.mark.parametrize("requests", [16, pytest.param(200, marks=pytest.mark.full)])
def test_an_image_is_the_same_whoever_shares_its_passes(engine: Engine, requests: int) -> None:
    """Random requests that come while others are drawn."""
    chance = random.Random(7)
    names = list(KINDS)

    def mix() -> Mix:
        used = chance.sample(names, chance.choice([0, 1, 1, 1, 2]))
        return mix_of({name: chance.choice([1.0, 1.0, 0.5, -0.4]) for name in used})

    asked = [
        (
            Request(
                chance.choice(["circles", "indigo stripes", "a bird"]),
                chance.choice(["", "", "red"]),
                seed=chance.randrange(2**31),
                num_inference_steps=chance.randint(1, 4),
                guidance_scale=chance.choice([0.0, 1.0, 2.0, 7.5]),
                num_images=chance.choice([1, 1, 1, 3]),
            ),
            mix(),
        )
        for _ in range(requests)
    ]
    drawings = []
    for request, one in asked:
        drawings.append(engine.submit(request, one))
        for _ in range(chance.randrange(4)):
            engine.step()
    finish(engine)
    others = 0
    engine._texts.clear()  # what was encoded wrongly would compare equal to itself
    for (request, one), drawing in zip(asked, drawings, strict=True):
        alone = drawn(engine, request, one)
        assert difference(drawing.images, alone) <= LARGEST, (request, one)
        others += not np.array_equal(drawing.images, alone)
    # Rows of one pass are summed in another order: were all bits equal, nothing was shared.
    assert others


def test_requests_of_any_steps_and_guidance_share_passes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes(engine, monkeypatch)
    engine.submit(Request("a", num_inference_steps=2, guidance_scale=1.0), mix_of({"dora": 1.0}))
    engine.submit(Request("b", num_inference_steps=3, guidance_scale=4.0), mix_of({"small": 1.0}))
    engine.step()
    engine.submit(Request("c", num_inference_steps=1, guidance_scale=0.0))
    finish(engine)
    assert seen == [1 + 2, 1 + 2 + 1, 2]


def test_the_time_of_a_pass_is_divided_among_its_images(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By this clock every pass takes a second.
    clock = SimpleNamespace(perf_counter=partial(next, count()))
    monkeypatch.setattr(engine_module, "time", clock)
    passes, steps, seconds = engine.passes, engine.steps, engine.seconds
    one = engine.submit(Request("a", num_inference_steps=2))
    two = engine.submit(Request("b", num_inference_steps=4, num_images=3))
    finish(engine)
    assert (engine.passes - passes, engine.steps - steps) == (4, 2 + 12)
    assert one.seconds == pytest.approx({"denoising": 2 / 4, "decoding": 1})
    assert two.seconds == pytest.approx({"denoising": 2 * 3 / 4 + 2, "decoding": 1})
    assert engine.seconds - seconds == pytest.approx(6)


def test_a_short_request_waits_for_its_share_of_a_long_one_and_none_starves(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.batch_images = 2
    seen = passes(engine, monkeypatch)
    ended: list[Request] = []

    def ask(steps: int, images: int) -> Drawing:
        request = Request("a", "", 0, steps, 1.0, images)
        return engine.submit(request, on_end=lambda drawing: ended.append(drawing.request))

    long = ask(20, 2)
    for _ in range(5):
        engine.step()
    before = len(seen)
    short = ask(4, 2)
    while short.request not in ended:
        engine.step()
    assert len(seen) - before <= 2 * 4 + 1
    # However many short ones come, the long one goes on at the rate of each of them.
    while long.request not in ended:
        if engine.waiting < 6:
            ask(4, 2)
        engine.step()
        assert len(seen) < 5 + 20 * 4
    finish(engine)


def test_a_cancelled_request_has_no_part_in_the_next_pass(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes(engine, monkeypatch)
    ended: list[Drawing] = []
    kept = engine.submit(Request("a", "", 1, 6, 1.0), on_end=ended.append)
    gone = engine.submit(Request("b", "", 2, 6, 1.0, 3), on_end=ended.append)
    engine.step()
    engine.cancel(gone)
    finish(engine)
    assert seen == [4, 1, 1, 1, 1, 1]
    assert ended == [kept]


def test_what_fails_harms_no_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = engine.model.schedule

    def refusing(steps: int, *size: int) -> Any:
        if steps == 5:
            raise ValueError("no schedule of 5 steps")
        return schedule(steps, *size)

    monkeypatch.setattr(engine.model, "schedule", refusing)
    bad = engine.submit(Request("a", num_inference_steps=5))
    good = engine.submit(Request("a", num_inference_steps=4))
    unknown = engine.submit(Request("a", num_inference_steps=4), mix_of({"nobody": 1.0}))
    finish(engine)
    assert str(bad.error) == "no schedule of 5 steps" and good.error is None
    assert isinstance(unknown.error, AdapterGone)


@pytest.mark.parametrize("part", ["denoise", "decode"])
def test_out_of_memory_makes_the_passes_smaller(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    said: list[str] = []
    compute = getattr(engine.model, part)
    room = 3

    def bounded(rows: torch.Tensor, *given: Any) -> torch.Tensor:
        if len(rows) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return compute(rows, *given)

    monkeypatch.setattr(engine, "say", said.append)
    expected = drawn(engine, Request("a", "", 1, 2, 1.0, 7))
    monkeypatch.setattr(engine.model, part, bounded)
    assert difference(drawn(engine, Request("a", "", 1, 2, 1.0, 7)), expected) <= LARGEST
    assert said == ["out of memory with 7 images together: 3 from now on"]
    room = 0
    drawing = engine.submit(Request("a", "", 1, 2, 1.0))
    finish(engine)
    assert str(drawing.error) == "one image takes more memory than there is"
    room = 3
    assert difference(drawn(engine, Request("a", "", 1, 2, 1.0)), expected[:1]) <= LARGEST


def test_previews_come_while_an_image_is_drawn_and_change_nothing(engine: Engine) -> None:
    request = Request("circles", "", 5, 7, 3.0)
    expected = drawn(engine, request)
    shown: list[tuple[int, int, np.ndarray]] = []

    def keep(drawing: Drawing, image: int, pixels: np.ndarray) -> None:
        shown.append((drawing.passes, drawing.passes_in_all, pixels))

    drawing = engine.submit(request, on_preview=keep, preview_steps=2)
    finish(engine)
    assert np.array_equal(drawing.images, expected)
    assert [(step, steps) for step, steps, _ in shown] == [(2, 7), (4, 7), (6, 7)]
    away = [difference(pixels, expected[0]) for *_, pixels in shown]
    assert shown[0][2].shape == expected[0].shape and away[2] < away[0]


def test_a_text_is_encoded_once_and_not_with_anothers_adapter(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = engine.model.encode

    def counted(texts: list[str]) -> Any:
        encoded.extend(texts)
        return encode(texts)

    monkeypatch.setattr(engine.model, "encode", counted)
    for mix in ((), mix_of({"small": 1.0}), mix_of({"large": 1.0}), mix_of({"large": 0.5}), ()):
        engine.submit(Request("a new text", "and another", 0, 1, 2.0), mix)
    finish(engine)
    # `small` leaves the text encoder as it is.
    assert encoded == ["a new text", "and another"] * 3


def test_an_adapter_that_is_taken_away_ends_what_is_drawn_with_it(
    engine: Engine, folder: Path
) -> None:
    engine.adapters.add("short-lived", engine.adapters.read(folder / "large"))
    kept = engine.submit(Request("a", num_inference_steps=4), mix_of({"large": 1.0}))
    drawing = engine.submit(Request("a", num_inference_steps=4), mix_of({"short-lived": 1.0}))
    engine.step()
    waiting = engine.submit(Request("a", num_inference_steps=4), mix_of({"short-lived": 1.0}))
    engine.let_go("short-lived", RuntimeError("gone"))
    finish(engine)
    assert str(drawing.error) == str(waiting.error) == "gone"
    again = drawn(engine, kept.request, kept.mix)
    assert kept.error is None and difference(kept.images, again) <= LARGEST


def test_counting_tokens_does_not_meet_encoding(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both use one tokenizer, which keeps how it pads and cuts."""
    lengths: list[int] = []
    encode = engine.model.encode

    def seen(texts: list[str]) -> Any:
        found = encode(texts)
        lengths.append(found["encoder_hidden_states"].shape[1])
        return found

    monkeypatch.setattr(engine.model, "encode", seen)
    over = threading.Event()

    def count() -> None:
        while not over.wait(0.0002):
            assert engine.left_out("short") == ""

    with ThreadPoolExecutor(4) as pool:
        counting = [pool.submit(count) for _ in range(4)]
        for number in range(150):
            engine.submit(Request(f"text {number}", "", 0, 1, 1.0))
        try:
            finish(engine)
        finally:
            over.set()
        for each in counting:
            each.result()
    assert len(lengths) == 150 and len(set(lengths)) == 1


def test_a_schedule_that_fails_harms_no_other_row(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = engine.model.schedule

    def failing(steps: int, *size: int) -> Any:
        scheduler, timesteps = schedule(steps, *size)
        if steps == 5:
            scheduler.step = lambda model_output, timestep, sample, **_: 1 / 0
        return scheduler, timesteps

    expected = drawn(engine, Request("a", num_inference_steps=4))
    monkeypatch.setattr(engine.model, "schedule", failing)
    bad = engine.submit(Request("a", num_inference_steps=5))
    good = engine.submit(Request("a", num_inference_steps=4))
    finish(engine)
    assert isinstance(bad.error, ZeroDivisionError)
    assert difference(good.images, expected) <= LARGEST


def test_without_memory_for_merged_weights_adapters_stand_beside_the_base(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = mix_of({"dora": 1.0})
    expected = drawn(engine, Request("a", num_inference_steps=3), mix)
    said: list[str] = []

    def merge(_: Mix) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine, "say", said.append)
    monkeypatch.setattr(engine.adapters, "merge", merge)
    monkeypatch.setattr(engine, "_merges", True)
    for _ in range(2):
        again = drawn(engine, Request("a", num_inference_steps=3), mix)
        assert difference(again, expected) <= LARGEST
    assert said == ["out of memory for merged weights: adapters stand beside the base from now on"]


def test_xl_decodes_on_after_it_ran_out_of_memory(tmp_path: Path) -> None:
    """Its autoencoder computes in full precision, and is brought back whatever happens."""
    base = tiny.make_random_base(tmp_path / "base", architecture="sdxl")
    model = architectures.load(base, None, torch.float32)
    vae = model.component("vae")
    vae.register_to_config(force_upcast=True)
    vae.to(torch.float16)
    latents = torch.zeros(1, 4, 8, 8, dtype=torch.float16)
    expected = model.decode(latents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "decode", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.decode(latents)
    assert vae.dtype == torch.float16
    assert torch.equal(model.decode(latents), expected)
