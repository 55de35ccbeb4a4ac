"""Which adapter files count as sound."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE, Request, Sampler
from adire_assets.families.diffusion.formats.adapter import inspect_adapter
from adire_assets.families.diffusion.formats.adapter_file import save_adapter
from tests.support import tiny

Tensors = dict[str, np.ndarray]


@pytest.fixture
def copy(tmp_path: Path, adapter: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "adapter"))


def change(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    save_file(edit(load_file(folder / ADAPTER_FILE)), folder / ADAPTER_FILE)


def first(tensors: Tensors, part: str) -> str:
    return next(key for key in sorted(tensors) if part in key)


def spoil(tensors: Tensors, value: float) -> Tensors:
    tensors[first(tensors, "lora_B")].flat[3] = value
    return tensors


def drop(tensors: Tensors) -> Tensors:
    del tensors[first(tensors, "lora_B")]
    return tensors


def widen(tensors: Tensors) -> Tensors:
    key = first(tensors, "lora_A")
    tensors[key] = np.ones((2, tensors[key].shape[1] + 1), np.float32)
    return tensors


def narrow_one_half(tensors: Tensors) -> Tensors:
    key = first(tensors, "lora_B")
    tensors[key] = np.ascontiguousarray(tensors[key][:, :1])
    return tensors


def clear(tensors: Tensors) -> Tensors:
    return {key: value * ("lora_A" in key) for key, value in tensors.items()}


def mix(tensors: Tensors) -> Tensors:
    pair = {"lora_A": "lora.down", "lora_B": "lora.up"}
    module = first(tensors, "unet").partition(".lora_")[0]
    for old, new in pair.items():
        tensors[f"{module}.{new}.weight"] = tensors.pop(f"{module}.{old}.weight")
    return tensors


def rename(tensors: Tensors) -> Tensors:
    return {key.replace("attn2", "attn3"): value for key, value in tensors.items()}


def test_a_trained_adapter_is_sound(adapter: Path, random_base: Path) -> None:
    assert inspect_adapter(adapter, random_base) == []


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_saved_adapter_is_sound_for_its_base_and_draws_as_it_did(
    tmp_path: Path, bases: dict[tiny.Architecture, Path], architecture: tiny.Architecture
) -> None:
    base = bases[architecture]
    model = architectures.load(base, None, torch.float32)
    pipe = model.pipe
    tiny.add_random_lora(pipe, seed=3)
    save_adapter(model, tmp_path)
    assert inspect_adapter(tmp_path, base) == []
    request = Request("circles", seed=5, num_inference_steps=2)
    pixels = pipe(
        "circles",
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images
    [loaded] = Sampler(base, adapter=tmp_path, device="cpu").generate([request])
    # Merged weights, with which the sampler draws, round otherwise than two products do.
    assert np.abs((pixels * 255).round() - loaded).max() <= 2
    parts = {key.partition(".")[0] for key in load_file(tmp_path / ADAPTER_FILE)}
    encoders = {"text_encoder", "text_encoder_2"} if architecture == "sdxl" else {"text_encoder"}
    assert parts == {"unet", *encoders}
    others = [folder for name, folder in bases.items() if name != architecture]
    assert all(inspect_adapter(tmp_path, other) for other in others)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda tensors: spoil(tensors, np.nan), "NaN or infinite"),
        (lambda tensors: spoil(tensors, np.inf), "NaN or infinite"),
        (drop, "the other matrix is missing"),
        (widen, "shapes that do not fit"),
        (narrow_one_half, "shapes that do not fit"),
        (clear, "changes nothing"),
        (mix, "the unet mixes names"),
        (rename, "no module of the base takes"),
        (lambda tensors: {}, "holds no tensors"),
        (
            lambda tensors: {key: value.astype(np.int32) for key, value in tensors.items()},
            "types other than",
        ),
    ],
)
def test_an_unsound_tensor_is_found(
    copy: Path, random_base: Path, edit: Callable[[Tensors], Tensors], says: str
) -> None:
    change(copy, edit)
    assert any(says in problem for problem in inspect_adapter(copy, random_base))


def test_an_adapter_of_another_base_does_not_fit(adapter: Path, tmp_path: Path) -> None:
    other = tiny.make_random_base(tmp_path / "other", width=16)
    assert any("shapes that do not fit" in problem for problem in inspect_adapter(adapter, other))


def test_pickles_beside_the_adapter_are_named(copy: Path, random_base: Path) -> None:
    (copy / "extra.bin").write_bytes(b"\x80\x04")
    [problem] = inspect_adapter(copy, random_base)
    assert "extra.bin" in problem


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\x80\x04 a pickle", "it is pickled"),
        (b"\xff" * 100, "is not a safetensors file"),
    ],
)
def test_a_file_that_is_not_safetensors_is_a_problem(
    copy: Path, random_base: Path, content: bytes, says: str
) -> None:
    (copy / ADAPTER_FILE).write_bytes(content)
    [problem] = inspect_adapter(copy, random_base)
    assert f"{ADAPTER_FILE} " in problem and says in problem


def test_a_missing_file_is_a_problem(tmp_path: Path, random_base: Path) -> None:
    assert inspect_adapter(tmp_path, random_base) == [f"{ADAPTER_FILE} is missing"]
