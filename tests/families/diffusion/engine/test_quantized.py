"""The engine draws with the denoiser's weights in 8 bits, and adapters on top of them."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adire_assets.families.diffusion.engine import architectures
from adire_assets.families.diffusion.engine.adapters import Mix, mix_of
from adire_assets.families.diffusion.engine.drawings import Request
from adire_assets.families.diffusion.engine.engine import Engine
from adire_assets.families.diffusion.engine.quantized import quantize, restored
from adire_assets.families.diffusion.engine.sampling import open_engine
from tests.support import adapters as made

LARGEST = 2  # levels of 255
KINDS: dict[str, dict[str, Any]] = {
    "attention": {"unet": made.ATTENTION, "text": []},
    "convolutions": {"unet": ["to_k", "conv1", "conv_in"], "text": [], "use_rslora": True},
    "dora": {"use_dora": True, "text": []},
}
REQUESTS = [
    Request("circles", seed=3, num_inference_steps=3, guidance_scale=4.0, num_images=2),
    Request("stripes", "red", seed=40, num_inference_steps=2),
    Request("grid", seed=8, num_inference_steps=4, guidance_scale=1.0),
    Request("rings", seed=9, num_inference_steps=3),
]
MIXES = [*(mix_of({name: 1.0}) for name in KINDS), mix_of({"dora": 0.5, "attention": -0.4})]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    made.make_base(folder / "base", "sd15")
    for number, (name, settings) in enumerate(KINDS.items()):
        made.make_adapter(folder / name, folder / "base", seed=number, **settings)
    return folder


def with_adapters(engine: Engine, folder: Path) -> Engine:
    for name in KINDS:
        engine.adapters.add(name, engine.adapters.read(folder / name))
    return engine


@pytest.fixture(scope="module")
def whole(folder: Path) -> Engine:
    return with_adapters(open_engine(folder / "base", None, "cpu"), folder)


@pytest.fixture(scope="module", params=["int8", "float8"])
def quantized(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    engine = open_engine(folder / "base", None, "cpu", quantization=request.param)
    yield with_adapters(engine, folder)


def drawn(engine: Engine, wanted: list[tuple[Request, Mix]]) -> list[np.ndarray]:
    drawings = [engine.submit(request, mix) for request, mix in wanted]
    while engine.step():
        pass
    assert [drawing.error for drawing in drawings] == [None] * len(drawings)
    return [drawing.images.astype(int) for drawing in drawings]


def nbytes(engine: Engine) -> int:
    """Of the denoiser's weights, and of the room in which its layers are restored."""
    denoiser = engine.model.component(engine.model.denoiser)
    rooms = {one.room for one in denoiser.modules() if hasattr(one, "room")}
    assert len(rooms) <= 1
    memory = [room.memory for room in rooms]
    return sum(one.nbytes for one in (*denoiser.parameters(), *denoiser.buffers(), *memory))


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one - other).max())


def test_weights_take_fewer_bytes_and_still_do_when_all_want_one_adapter(
    whole: Engine, quantized: Engine
) -> None:
    drawn(quantized, [(REQUESTS[0], ())])
    before = nbytes(quantized)
    # Norms and biases of a tiny denoiser, and its largest layer, are a tenth of it.
    assert before < nbytes(whole) * 0.36
    drawn(quantized, [(REQUESTS[0], MIXES[0])] * 2)
    assert nbytes(quantized) == before
    assert quantized.model.dtype == torch.float32


def test_images_are_near_those_of_whole_weights(whole: Engine, quantized: Engine) -> None:
    held = quantized.model.component("unet").conv_in.weight.dtype
    # Scales that are wrong by a fiftieth give 2.5 and 5.
    mean_levels = {torch.int8: 0.8, torch.float8_e4m3fn: 4.8}[held]
    wanted = list(zip(REQUESTS, [(), *MIXES], strict=False))
    for one, other in zip(drawn(quantized, wanted), drawn(whole, wanted), strict=True):
        assert 0 < np.abs(one - other).mean() < mean_levels


def test_an_image_is_the_same_alone_and_among_those_of_other_adapters(quantized: Engine) -> None:
    wanted = [*zip(REQUESTS, MIXES, strict=True), (REQUESTS[0], ())]
    together = drawn(quantized, wanted)
    for images, one in zip(together, wanted, strict=True):
        assert difference(images, drawn(quantized, [one])[0]) <= LARGEST
    assert difference(together[0], together[-1]) > 20


def test_adapters_add_what_they_do_to_the_weights_as_they_are_restored(
    folder: Path, quantized: Engine
) -> None:
    """An engine whose whole weights are the restored ones, with adapters merged into them."""
    same = architectures.load(folder / "base", None, torch.float32)
    layers = dict(quantized.model.component("unet").named_modules())
    for name, module in same.component("unet").named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            held: Any = layers[name]
            module.weight = nn.Parameter(restored(held.weight, held.scale), requires_grad=False)
    engine = with_adapters(Engine(same, "cpu", 8), folder)
    for request, mix in zip(REQUESTS, MIXES, strict=True):
        [found], [merged] = drawn(quantized, [(request, mix)]), drawn(engine, [(request, mix)])
        assert difference(found, merged) <= LARGEST, mix


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["int8", "float8"])
@pytest.mark.parametrize("layer", [nn.Linear(48, 24), nn.Conv2d(8, 6, 3, padding=1)])
def test_the_scale_of_each_output_is_its_own(
    kind: str, layer: nn.Module, dtype: torch.dtype
) -> None:
    """Outputs of a millionth of others keep their digits, also where half precision has few of
    them; one of nothing stays nothing."""
    layer = copy.deepcopy(layer).to(dtype)
    weight: Any = layer.weight
    with torch.no_grad():
        weight[0], weight[1], weight[2] = weight[0] * 1e-6, 0.0, weight[2] * 7.5e-5
    before = weight.detach().float()
    part = nn.Sequential(layer)
    quantize(part, kind)
    found = restored(layer.weight, layer.scale).float()  # type: ignore[arg-type]
    assert layer.weight.element_size() == 1  # type: ignore[operator]
    assert not found[1].any()
    # Half a step of int8; 4 bits, the leading one implied, of float8.
    apart = (found - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1).clamp_min(1e-30)
    assert apart.max() < {"int8": 0.01, "float8": 0.04}[kind]
