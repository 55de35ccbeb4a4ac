"""What a GPU is asked of diffusion models: the parts that benchmarks/device.py runs.

The base is Stable Diffusion 1.5 in its published sizes with random weights: pictures are noise, but
time and memory are those of a trained one. A part is `run(folder, dry)`: figures, or with `dry`
only whether it could.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS = 20
Figures = dict[str, Any]


def base(folder: Path, dry: bool) -> Figures:
    """Stable Diffusion 1.5's sizes in half precision, and two dozen images of 512 pixels."""
    from benchmarks.large_base import large_base
    from tests.support import tiny

    if dry:
        return {}
    pipe = large_base(512, "cuda")
    pipe.save_pretrained(folder / "base", variant="fp16")
    tiny.make_dataset(folder / "dataset", images=24, resolution=512)
    parameters = sum(weight.numel() for weight in pipe.unet.parameters())
    return {"unet_parameters": parameters}


def _small(folder: Path) -> tuple[Path, Path]:
    """A base and images of 64 pixels, made when they are not there."""
    from tests.support import tiny

    small = folder / "small"
    if not small.is_dir():
        tiny.make_random_base(small / "base")
        tiny.make_dataset(small / "dataset")
    return small / "base", small / "dataset"


# --- training -----------------------------------------------------------------------------------


def _train(
    folder: Path, name: str, resolution: int = 512, cache: str = "cache", **training: Any
) -> Figures:
    """Figures of a training, and the digest of its adapter."""
    import torch

    from adire_assets.core.lineage import file_digest
    from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE
    from adire_assets.families.diffusion.training import lora

    said: list[str] = []
    small = resolution != 512
    place, images = _small(folder) if small else (folder / "base", folder / "dataset")
    output = folder / "trained" / name
    output.mkdir(parents=True)
    torch.cuda.reset_peak_memory_stats()
    result = lora.train(
        dataset=str(images),
        base=str(place),
        variant=None if small else "fp16",
        output=str(output),
        training=_settings(**training),
        work=str(folder / "work" / name),
        cache=str(folder / cache),
        resolution=resolution,
        device="cuda",
        progress=lambda message, **_: said.append(message),
    )
    encoded = next(line for line in said if line.startswith("encoded "))
    return {
        "steps_per_second": result["steps_per_second"],
        "peak_memory_mib": torch.cuda.max_memory_allocated() // 2**20,
        "loss": round(result["final_loss"], 4),
        "encoded": int(encoded.split()[1]),
        "sha256": file_digest(output / ADAPTER_FILE)[:12],
    }


def _settings(**training: Any) -> dict[str, Any]:
    return {
        "learning_rate": 1e-4,
        "max_train_steps": STEPS,
        "checkpointing_steps": STEPS // 2,
        "train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        **training,
    }


def training(name: str, **settings: Any) -> Callable[[Path, bool], Figures]:
    """A part that trains the large base with these settings."""

    def run(folder: Path, dry: bool) -> Figures:
        from adire_assets.families.diffusion.training.settings import TrainingConfig

        TrainingConfig.model_validate(_settings(**settings))
        return {} if dry else _train(folder, name, **settings)

    return run


def caches(folder: Path, dry: bool) -> Figures:
    """One cache for both precisions: each training finds its own texts, never the other's."""

    if dry:
        return {}
    encoded = [
        _train(folder, f"precision-{number}", 64, "both", mixed_precision=precision)["encoded"]
        for number, precision in enumerate(("fp16", "no", "fp16", "no"))
    ]
    if encoded[2:] != [0, 0] or not encoded[1]:
        raise RuntimeError(f"encoded {encoded}: a precision found nothing, or another's")
    return {"encoded": encoded}


def equal_bits(folder: Path, dry: bool) -> Figures:
    """Two trainings with `deterministic: true` give the same file."""

    if dry:
        return {}
    made = {
        _train(folder, f"equal-{number}", 64, deterministic=True)["sha256"] for number in range(2)
    }
    if len(made) > 1:
        raise RuntimeError(f"two deterministic trainings differ: {sorted(made)}")
    return {"sha256": made.pop()}


# --- drawing and judging ------------------------------------------------------------------------


def sampling(folder: Path, dry: bool) -> Figures:
    """Images a second, in half precision, 30 steps with guidance: the stock pipeline with its LoRA
    merged, the engine with one adapter and with four in a pass."""
    import torch
    from diffusers import DiffusionPipeline

    from adire_assets.families.diffusion.engine.adapters import Mix
    from adire_assets.families.diffusion.engine.sampling import Request, open_engine
    from tests.support import adapters

    if dry:
        return {}
    trained = folder / "trained" / "training_fp16"
    stock = DiffusionPipeline.from_pretrained(folder / "base", variant="fp16", dtype=torch.float16)
    stock.set_progress_bar_config(disable=True)
    stock.to("cuda")
    stock.load_lora_weights(str(trained))
    stock.fuse_lora()

    def by_stock(count: int) -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
        stock(["indigo circles"] * count, num_inference_steps=30, generator=generators)

    found: Figures = {}
    for count in (1, 4, 8):
        found[f"stock_{count}"] = _per_second(count, lambda count=count: by_stock(count))
    stock.to("cpu")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    engine = open_engine(folder / "base", "fp16", "cuda")
    names = ["trained"]
    engine.adapters.add("trained", engine.adapters.read(trained))
    kinds: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "large": {"r": 16}, "more": {}}
    for seed, (name, settings) in enumerate(kinds.items()):
        place = adapters.make_adapter(
            folder / "mixed" / name,
            folder / "base",
            unet=adapters.ATTENTION,
            text=[],
            seed=seed,
            variant="fp16",
            **settings,
        )
        engine.adapters.add(name, engine.adapters.read(place))
        names.append(name)

    def drawn(wanted: list[tuple[int, Mix]]) -> list[Any]:
        asked = [engine.submit(Request("indigo circles", seed=seed), mix) for seed, mix in wanted]
        while engine.step():
            pass
        for drawing in asked:
            if drawing.error:
                raise drawing.error
        return [drawing.images for drawing in asked]

    one = [(seed, (("trained", 1.0),)) for seed in range(8)]
    mixed = [(seed, ((names[seed % 4], 1.0),)) for seed in range(8)]
    for count in (1, 4, 8):
        found[f"engine_{count}"] = _per_second(count, lambda count=count: drawn(one[:count]))
    found["engine_8_of_4_adapters"] = _per_second(8, lambda: drawn(mixed))
    together, alone = drawn(mixed), [drawn([wanted])[0] for wanted in mixed[:4]]
    differences = [
        abs(images.astype(int) - other.astype(int)).max()
        for images, other in zip(together, alone, strict=False)
    ]
    return found | {
        "largest_difference": int(max(differences)),
        "peak_memory_mib": torch.cuda.max_memory_allocated() // 2**20,
    }


def _per_second(count: int, draw: Callable[[], object]) -> float:
    draw()  # warms up
    started = time.perf_counter()
    draw()
    return round(count / (time.perf_counter() - started), 2)


def evaluation(folder: Path, dry: bool) -> Figures:
    """Images of an adapter and of its base, drawn, timed and scored as the gates see them."""
    from adire_assets.families.diffusion.evaluation import evaluate, images
    from tests.support import tiny

    if dry:
        return {}
    place, dataset = _small(folder)
    adapter = tiny.make_adapter(folder / "evaluated" / "lora", place)
    judge = tiny.make_random_judge(folder / "evaluated" / "judge")
    asked = {
        "prompts": ["indigo circles", "white crosses"],
        "seeds": list(range(8)),
        "negative_prompt": "",
        "num_inference_steps": 10,
        "guidance_scale": 7.5,
        "latency_images": 3,
    }
    facts: Figures = {}
    for name, lora in (("base", None), ("adapter", str(adapter))):
        output = folder / "evaluated" / name
        output.mkdir()
        facts = images.draw(
            base=str(place),
            variant=None,
            adapter=lora,
            drawing=asked,
            output=str(output),
            device="cuda",
            progress=_silent,
        )
    output = folder / "evaluated" / "report"
    output.mkdir()
    report = evaluate.score(
        dataset=str(dataset),
        adapter_images=str(folder / "evaluated" / "adapter"),
        base_images=str(folder / "evaluated" / "base"),
        judge=str(judge),
        evaluation={**asked, "prompt_set": None, "judge": {"source": "random"}},
        output=str(output),
        device="cuda",
        progress=_silent,
    )
    return {
        "seconds_per_image": facts["seconds_per_image_mean"],
        "peak_memory_mib": facts["peak_memory_bytes"] // 2**20,
        "clip_s": report["clip_s_mean"],
    }


def triton(folder: Path, dry: bool) -> Figures:
    """A release on a scratch Triton with the GPU answers with the evaluated images."""
    from adire_assets.core.project import Project
    from adire_assets.serving.fleet import parity
    from tests.support.diffusion import add_diffusion
    from tests.support.fleets import make_fleet
    from tests.support.house import House

    if dry:
        return {}
    root = folder / "served"
    (root / "configs" / "models").mkdir(parents=True)
    (root / "triton_models").symlink_to(ROOT / "triton_models")
    house = House(Project(root, root / "home"), make_fleet(), "cloth")
    number = add_diffusion(house, 1)
    started = time.perf_counter()
    facts = parity.compare_on_scratch_server(house.project, house.releases[number], "cuda", print)
    if not facts["passed"]:
        raise RuntimeError(facts["explanation"])
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "device": facts["device"],
        "smallest_ssim": facts["smallest_ssim"],
    }


def _silent(message: str, **_: Any) -> None:
    pass


BASE = "base"
BITS = ("bitsandbytes",)
PARTS = (
    (BASE, "Stable Diffusion 1.5's sizes, random weights", base),
    ("training_fp32", "LoRA in full precision", training("training_fp32")),
    ("training_fp16", "in fp16", training("training_fp16", mixed_precision="fp16")),
    ("training_bf16", "in bf16", training("training_bf16", mixed_precision="bf16")),
    (
        "training_lean",
        "bf16 with gradient checkpointing, channels last and the text encoder",
        training(
            "training_lean",
            mixed_precision="bf16",
            gradient_checkpointing=True,
            channels_last=True,
            train_text_encoder=True,
        ),
    ),
    (
        "training_8bit_adam",
        "bf16 with 8-bit AdamW",
        training("training_8bit_adam", mixed_precision="bf16", optimizer="adamw_8bit"),
        BITS,
    ),
    (
        "training_qlora",
        "bf16 on a base in 4 bits",
        training("training_qlora", mixed_precision="bf16", quantization="4bit"),
        BITS,
    ),
    (
        "training_compiled",
        "bf16 with torch.compile",
        training("training_compiled", mixed_precision="bf16", torch_compile=True),
    ),
    ("caches", "one cache for fp16 and full precision", caches),
    ("equal_bits", "two deterministic trainings", equal_bits),
    ("sampling", "images a second by batch size", sampling),
    ("evaluation", "drawing, timing and scoring", evaluation, ("onnxruntime",)),
    ("triton", "a release on a Triton with the GPU", triton, ("pytriton", "tritonclient")),
)
