"""The rows of a pass take their own adapters, as stock diffusers and peft take one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.engine.adapter_layers import ADAPTER_FILE, AdapterError
from adire_assets.families.diffusion.engine.adapters import Adapters, Mix, mix_of
from adire_assets.families.diffusion.engine.layouts import prepack
from tests.support import adapters as made

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 5},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"to_q": 2, "conv1": 6}, "alpha_pattern": {"to_k": 9}},
    "attention": {"unet": made.ATTENTION, "text": []},
}
ARCHITECTURES = ("sd15", "sd2", "sdxl")
PREPACKED = ("sd15", "sdxl")  # as the engine draws on the CPU; the other as it is elsewhere


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make_base(tmp_path_factory.mktemp(request.param) / "base", request.param)


@pytest.fixture(scope="module")
def folders(base: Path) -> dict[str, Path]:
    return {
        name: made.make_adapter(base.parent / name, base, seed=number, **settings)
        for number, (name, settings) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def adapters(base: Path, folders: dict[str, Path]) -> Adapters:
    model = architectures.load(base, None, torch.float32)
    if base.parent.name.startswith(PREPACKED):
        prepack(model.component(model.denoiser))
    found = Adapters(model)
    for name, folder in folders.items():
        found.add(name, found.read(folder))
    return found


def noise(adapters: Adapters, rows: int) -> Tensor:
    shape = adapters.model.latents.shape(*[adapters.model.resolution] * 2)
    return torch.randn((rows, *shape), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def told(adapters: Adapters, mix: Mix) -> dict[str, Tensor]:
    """The conditioning of one row."""
    model = adapters.model
    adapters.use(model.text_encoders, [adapters.of_texts(mix)])
    return model.for_size(model.encode(["indigo circles"]), *[model.resolution] * 2)


@torch.no_grad()
def predicted(adapters: Adapters, mixes: list[Mix]) -> Tensor:
    """What the denoiser says in one pass to the same noise in each row."""
    texts = [told(adapters, mix) for mix in mixes]
    together = {name: torch.cat([text[name] for text in texts]) for name in texts[0]}
    noisy = noise(adapters, 1).repeat(len(mixes), 1, 1, 1)
    return adapters.model.denoise(noisy, torch.full((len(mixes),), 500), together)


def by_rows(adapters: Adapters, mixes: list[Mix]) -> Tensor:
    adapters.use([adapters.model.denoiser], mixes)
    return predicted(adapters, mixes)


def merged(adapters: Adapters, mix: Mix) -> Tensor:
    adapters.merge(mix)
    return predicted(adapters, [mix])[0]


@torch.no_grad()
def by_stock(base: Path, weighted: dict[Path, float]) -> Tensor:
    """By stock diffusers with peft, unmerged."""
    model = architectures.load(base, None, torch.float32)
    if weighted:
        for number, folder in enumerate(weighted):
            model.pipe.load_lora_weights(str(folder), adapter_name=f"a{number}")
        model.pipe.set_adapters([f"a{n}" for n in range(len(weighted))], [*weighted.values()])
    text = model.for_size(model.encode(["indigo circles"]), *[model.resolution] * 2)
    return model.denoise(noise(Adapters(model), 1), torch.tensor([500]), text)[0]


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_each_row_is_what_stock_diffusers_predicts_with_its_adapter(
    base: Path, folders: dict[str, Path], adapters: Adapters
) -> None:
    bare = by_stock(base, {})
    expected = [by_stock(base, {folder: 1.0}) for folder in folders.values()]
    mixes = [mix_of({name: 1.0}) for name in folders]
    found = by_rows(adapters, [*mixes, ()])
    for name, one, other in zip(folders, found, expected, strict=False):
        assert close(one, other), name
        assert not close(one, bare), name
        assert close(merged(adapters, mix_of({name: 1.0})), other), name
    assert close(found[-1], bare)
    assert torch.equal(merged(adapters, ()), by_rows(adapters, [()])[0])
    assert close(merged(adapters, ()), bare), "the base is left with other weights"


def test_adapters_are_mixed_by_weight(
    base: Path, folders: dict[str, Path], adapters: Adapters
) -> None:
    weights = {"lora": 0.7, "rslora": -0.3}
    expected = by_stock(base, {folders[name]: weight for name, weight in weights.items()})
    mix = mix_of(weights)
    assert close(by_rows(adapters, [(), mix, mix_of({"dora": 1.0})])[1], expected)
    assert close(merged(adapters, mix), expected)
    # Half of a DoRA is half of what it changes in each layer, merged or not.
    half = mix_of({"dora": 0.5, "lora": 0.5})
    assert close(by_rows(adapters, [half, ()])[0], merged(adapters, half))
    assert mix_of({"dora": 0.0}) == ()


def test_an_adapter_that_is_taken_away_leaves_nothing(
    folders: dict[str, Path], adapters: Adapters
) -> None:
    bare = merged(adapters, ())
    before = by_rows(adapters, [mix_of({"lora": 1.0}), ()])
    adapters.add("more", adapters.read(folders["dora"]))
    with pytest.raises(ValueError, match="there is an adapter more already"):
        adapters.add("more", {})
    adapters.merge(mix_of({"more": 1.0}))
    adapters.remove("more")
    assert "more" not in adapters and len(adapters) == len(KINDS)
    assert torch.equal(predicted(adapters, [()])[0], bare)
    assert torch.equal(by_rows(adapters, [mix_of({"lora": 1.0}), ()]), before)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: {**t, "unet.nowhere.lora_A.weight": torch.ones(3, 8)}, "has no layer unet.nowh"),
        (lambda t: {**t, "vae.encoder.lora_A.weight": torch.ones(3, 8)}, "has no layer vae.encode"),
        (
            lambda t: {**t, "unet.conv_in.weight": torch.ones(3, 8)},
            "unet.conv_in.weight is no tens",
        ),
        (lambda t: dict(sorted(t.items())[1:]), "half of unet.* is missing"),
        (
            lambda t: {k: v[:, :-1] if "lora_A" in k else v for k, v in t.items()},
            "does not fit a w",
        ),
        (
            lambda t: {k: v[:-1] if "lora_A" in k else v for k, v in t.items()},
            "does not fit a weig",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    tmp_path: Path, folders: dict[str, Path], adapters: Adapters, change: Any, says: str
) -> None:
    tensors = load_file(folders["attention"] / ADAPTER_FILE)
    broken = {name: tensor.contiguous() for name, tensor in change(tensors).items()}
    save_file(broken, tmp_path / ADAPTER_FILE)
    with pytest.raises(AdapterError, match=says):
        adapters.read(tmp_path)


def test_magnitudes_that_do_not_fit_are_refused(
    tmp_path: Path, folders: dict[str, Path], adapters: Adapters
) -> None:
    tensors = load_file(folders["dora"] / ADAPTER_FILE)
    broken = {k: v.flatten()[:-1] if "magn" in k else v.contiguous() for k, v in tensors.items()}
    save_file(broken, tmp_path / ADAPTER_FILE)
    with pytest.raises(AdapterError, match="magnitudes for a weight of"):
        adapters.read(tmp_path)


def test_an_adapter_without_settings_counts_as_it_is(
    tmp_path: Path, base: Path, folders: dict[str, Path], adapters: Adapters
) -> None:
    save_file(load_file(folders["attention"] / ADAPTER_FILE), tmp_path / ADAPTER_FILE)
    adapters.add("plain", adapters.read(tmp_path))
    try:
        found = merged(adapters, mix_of({"plain": 1.0}))
        assert close(found, by_stock(base, {tmp_path: 1.0}))
    finally:
        adapters.remove("plain")
    assert np.isfinite(found.numpy()).all()
