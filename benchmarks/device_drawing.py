"""What a GPU is asked of the engine that draws: each way of computing, with it and without it.

    drawing_ways         channels last, fused attention (SDPA), float16 or bfloat16; pinned memory
    drawing_quantized    `serving.quantization`
    drawing_compiled     torch.compile of the blocks that repeat, which the engine does not do
    drawing_graphs       a CUDA graph of a pass, neither

The sides of a comparison take turns; figures are images a second, or milliseconds a pass, of the
medians. The parts are as in benchmarks/device_diffusion.py, on the base that is made there.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import device_diffusion

if TYPE_CHECKING:
    from adire_assets.families.diffusion.engine.adapters import Mix
    from adire_assets.families.diffusion.engine.engine import Engine

STEPS = 10
ROUNDS = 3
COUNTS = (1, 8)  # images drawn together
Figures = dict[str, Any]


def ways(folder: Path, dry: bool, device: str = "cuda", variant: str | None = "fp16") -> Figures:
    """Each way that an engine can be told on the spot, against the engine as it is."""
    import torch
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    from adire_assets.families.diffusion.engine.engine import Engine
    from adire_assets.families.diffusion.engine.sampling import open_engine

    if dry:
        return {}
    engine = open_engine(folder / "base", variant, device)
    parts = [engine.model.component(name) for name in ("unet", "vae")]

    def layout(kind: torch.memory_format) -> Callable[[], None]:
        def change() -> None:
            for part in parts:
                part.to(memory_format=kind)

        return change

    def attention(kind: type) -> Callable[[], None]:
        return lambda: parts[0].set_attn_processor(kind())

    found: Figures = {}
    contiguous, fused = layout(torch.contiguous_format), attention(AttnProcessor2_0)
    pairs = [("sdpa", fused, attention(AttnProcessor), fused)]
    if device == "cuda":  # on the CPU convolutions have oneDNN's layout
        pairs.append(("channels_last", layout(torch.channels_last), contiguous, contiguous))
    for name, with_it, without, as_it_is in pairs:
        for count in COUNTS:
            found |= _turns(count, {name: (engine, with_it), f"no_{name}": (engine, without)})
        as_it_is()
    if device == "cuda":
        half = open_engine(folder / "base", variant, device)
        half.model.pipe.to(dtype=torch.bfloat16)
        sides = {
            "float16": (engine, _nothing),
            "bfloat16": (Engine(half.model, device, 8), _nothing),
        }
        for count in COUNTS:
            found |= _turns(count, sides)
        found |= _copies()
    return found


def _copies() -> Figures:
    """Milliseconds of the copy of eight decoded images to the host."""
    import torch

    images = torch.zeros(8, 3, 512, 512, dtype=torch.float16, device="cuda")
    pinned = torch.empty(images.shape, dtype=images.dtype, pin_memory=True)

    def to_pinned() -> None:
        pinned.copy_(images, non_blocking=True)
        torch.cuda.synchronize()

    return {
        "copy_ms": _milliseconds(images.cpu),
        "copy_pinned_ms": _milliseconds(to_pinned),
    }


def quantized(
    folder: Path, dry: bool, device: str = "cuda", variant: str | None = "fp16"
) -> Figures:
    """Bytes of the denoiser's weights, images a second with and without an adapter, and how far
    images are from those of whole weights (mean levels of 255)."""
    import numpy as np

    from adire_assets.families.diffusion.engine.adapters import mix_of
    from adire_assets.families.diffusion.engine.quantized import NONE, TYPES
    from adire_assets.families.diffusion.engine.sampling import open_engine

    if dry:
        return {}
    adapter = _adapter(folder, variant)
    engines, found, images = {}, {}, {}
    for kind in (NONE, *TYPES):
        engine = engines[kind] = open_engine(folder / "base", variant, device, quantization=kind)
        engine.adapters.add("one", engine.adapters.read(adapter))
        denoiser = engine.model.component("unet")
        weights = (*denoiser.parameters(), *denoiser.buffers())
        found[f"{kind}_mib"] = sum(weight.nbytes for weight in weights) // 2**20
        images[kind] = draw(engine, 4)
    for kind in TYPES:
        pairs = zip(images[kind], images[NONE], strict=True)
        away = [np.abs(one.astype(int) - other).mean() for one, other in pairs]
        found[f"{kind}_levels"] = round(float(np.mean(away)), 2)
    sides = {kind: (engine, _nothing) for kind, engine in engines.items()}
    for count in COUNTS:
        found |= _turns(count, sides)
        found |= _turns(count, sides, mix_of({"one": 1.0}), "_with_adapter")
    return found


def compiled(
    folder: Path, dry: bool, device: str = "cuda", variant: str | None = "fp16"
) -> Figures:
    """torch.compile of the blocks that repeat: what it gives, and what it costs before."""
    import numpy as np
    from torch._dynamo.utils import counters

    from adire_assets.families.diffusion.engine.adapters import mix_of
    from adire_assets.families.diffusion.engine.sampling import open_engine

    if dry:
        return {}
    adapter = _adapter(folder, variant)
    engines = [open_engine(folder / "base", variant, device) for _ in range(2)]
    for engine in engines:
        engine.adapters.add("one", engine.adapters.read(adapter))
    plain, other = engines
    other.model.component("unet").compile_repeated_blocks()
    found: Figures = {}
    for name, count, mixes in (
        ("first", 1, [()]),
        ("8_images", 8, [()]),
        ("2_images", 2, [()]),
        ("merged", 2, [mix_of({"one": 1.0})]),
        ("beside", 2, [(), mix_of({"one": 1.0})]),
    ):
        graphs, began = counters["stats"]["unique_graphs"], time.perf_counter()
        images = draw(other, count, *mixes)
        found[f"{name}_s"] = round(time.perf_counter() - began, 1)
        found[f"{name}_graphs"] = counters["stats"]["unique_graphs"] - graphs
        pairs = zip(images, draw(plain, count, *mixes), strict=True)
        away = [np.abs(one.astype(int) - same).max() for one, same in pairs]
        found[f"{name}_difference"] = int(max(away))
    sides = {"eager": (plain, _nothing), "compiled": (other, _nothing)}
    for count in COUNTS:
        found |= _turns(count, sides)
    return found


def graphs(folder: Path, dry: bool) -> Figures:
    """A pass of two rows (one guided image) and of sixteen, replayed as a CUDA graph."""
    import torch

    from adire_assets.families.diffusion.engine.sampling import open_engine

    if dry:
        return {}
    model = open_engine(folder / "base", "fp16", "cuda").model
    found: Figures = {}
    with torch.inference_mode():
        for rows in (2, 16):
            told = model.encode(["indigo circles"] * rows)
            shape = model.latents.shape(model.resolution, model.resolution)
            noisy = torch.randn(rows, *shape, dtype=model.dtype, device="cuda")
            timesteps = torch.full((rows,), 500, device="cuda")

            def run(given: tuple[Any, ...] = (noisy, timesteps, told)) -> None:
                model.denoise(*given)
                torch.cuda.synchronize()

            found[f"pass_{rows}_ms"] = _milliseconds(run)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                model.denoise(noisy, timesteps, told)

            def again(graph: torch.cuda.CUDAGraph = graph) -> None:
                graph.replay()
                torch.cuda.synchronize()

            found[f"graph_{rows}_ms"] = _milliseconds(again)
    return found


def draw(engine: "Engine", count: int, *mixes: "Mix") -> list[Any]:
    """So many images, the mixes in turn."""
    from adire_assets.families.diffusion.engine.sampling import Request

    asked = [
        engine.submit(
            Request("indigo circles", seed=seed, num_inference_steps=STEPS),
            mixes[seed % len(mixes)] if mixes else (),
        )
        for seed in range(count)
    ]
    while engine.step():
        pass
    for drawing in asked:
        if drawing.error:
            raise drawing.error
    return [drawing.images for drawing in asked]


def _turns(
    count: int,
    sides: "Mapping[str, tuple[Engine, Callable[[], None]]]",
    mix: "Mix" = (),
    suffix: str = "",
) -> Figures:
    """{side_count: images a second}; before each drawing the side's engine is changed to it."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, (engine, change) in sides.items():
            change()
            began = time.perf_counter()
            draw(engine, count, mix)
            if number:  # the first round warms all up
                taken[name].append(time.perf_counter() - began)
    return {
        f"{name}_{count}{suffix}": round(count / median(values), 3)
        for name, values in taken.items()
    }


def _milliseconds(act: Callable[[], object], times: int = 10) -> float:
    taken = []
    for _ in range(times + 2):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return round(median(taken[2:]) * 1000, 3)


def _adapter(folder: Path, variant: str | None) -> Path:
    from tests.support import adapters

    place = folder / "drawn" / "adapter"
    if not place.is_dir():
        base, kinds = folder / "base", adapters.ATTENTION
        adapters.make_adapter(place, base, unet=kinds, text=[], variant=variant, r=16)
    return place


def _nothing() -> None:
    pass


BASE = device_diffusion.BASE
PARTS = (
    ("drawing_ways", "layouts, attention and types of the engine", ways),
    ("drawing_quantized", "weights in 8 bits", quantized),
    ("drawing_compiled", "torch.compile of repeated blocks", compiled),
    ("drawing_graphs", "passes as CUDA graphs", graphs),
)
