"""LoRA training of a diffusion base, exact and interruptible.

`train` runs in worker children behind what `launch.launcher` starts, as many as `training` says.
It learns from the training split of a dataset artifact and writes, only when all went well, into
`output`:

    pytorch_lora_weights.safetensors   loads with stock `pipe.load_lora_weights(output)`
    training.json   loss.csv (step,loss)   validation.csv (step,validation_loss)
    validation/*.png   validation/step-*/*.png   timings.json

The order of the work: encode what will be seen (`examples`, kept in `cache`), let the encoders go,
then run the optimizer (`training.loop`). Everything random at optimizer step k is a function of the
seed and k alone. So a run that resumes from its last checkpoint ends in the bits of an
uninterrupted one, and on the CPU equal seeds and thread counts give equal files.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.store import write_json
from adire_assets.core.worker import Progress
from adire_assets.families.diffusion.engine.architecture import Architecture, Noise
from adire_assets.families.diffusion.engine.sampling import Request, Sampler, told_of_long
from adire_assets.families.diffusion.formats.adapter_file import save_adapter
from adire_assets.families.diffusion.schedulers import refusal
from adire_assets.families.diffusion.training import encoding
from adire_assets.families.diffusion.training.cache import Facts
from adire_assets.families.diffusion.training.class_images import class_images
from adire_assets.families.diffusion.training.denoising import Denoising
from adire_assets.families.diffusion.training.examples import Examples
from adire_assets.families.diffusion.training.layers import (
    add_lora,
    trained_parts,
    trained_weights,
)
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.families.training.checkpoint import Checkpoints
from adire_assets.families.training.fused_lora import fuse
from adire_assets.families.training.loop import ShouldPrune, TrainingLoop
from adire_assets.families.training.processes import FROZEN_TYPES, accelerator_for, say_nothing

SHOWN_CAPTIONS = 3


def train(
    *,
    dataset: str,
    base: str,
    variant: str | None,
    output: str,
    training: dict,
    work: str,
    resolution: int,
    device: str,
    progress: Progress,
    cache: str | None = None,
    should_prune: ShouldPrune = lambda step, validation_loss: False,
) -> dict:
    """Train an adapter and write it into the existing folder `output`; returns training.json.

    `training` is a TrainingConfig as plain values, `device` "cpu" or "cuda". `work` is a folder for
    checkpoints that survives a kill: a run goes on from there; the caller removes it once the
    artifact is in place. `cache` (default: in `work`) keeps latents and text embeddings for this
    and other runs. `should_prune` is asked at each validation; TrialPruned when it says so.
    UserError when a target module does not exist, a rank is too high, a checkpoint
    is another run's, the loss stops being a number or a scheduler does not fit the base.
    """
    settings = TrainingConfig.model_validate(training)
    steps = settings.validation_num_inference_steps
    if why := refusal(Path(base), settings.validation_scheduler, steps):
        raise UserError(f"training.validation_scheduler: {why}")
    accelerator = accelerator_for(settings, device)
    tell = progress if accelerator.is_main_process else say_nothing
    tell("loading the base model")
    facts = encoding.facts_of(Path(base), variant, settings, device)
    kept = Path(cache or f"{work}/cache")
    with accelerator.local_main_process_first():
        of_class = class_images(Path(base), variant, settings, kept / "class", facts, device, tell)
    model = encoding.load(Path(base), variant)
    noise = _noise(model, base)
    if settings.quantization == "4bit":
        _quantize(model, Path(base), variant, settings)
    add_lora(model, settings)
    model.pipe.to(accelerator.device)
    _speed(model, settings, device)
    texts = encoding.texts_cache(model, kept / "texts", facts, settings, device)
    examples = Examples(
        Path(dataset),
        settings,
        resolution=resolution,
        geometry=model.latents,
        noise=noise,
        latents=encoding.latents_cache(model, kept / "latents", facts),
        texts=None if settings.train_text_encoder else texts,
        device=accelerator.device,
        class_images=of_class,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    _warn_of_long_texts(model, examples, settings, tell)
    identity = identity_of(settings, examples.digest, facts, resolution)
    checkpoints = Checkpoints(Path(work), identity)
    started = time.monotonic()
    task = Denoising(model, examples, settings, accelerator)
    loop = TrainingLoop(task, settings, accelerator, checkpoints, tell, should_prune)
    tell("encoding images and captions")
    local = accelerator.num_processes // settings.num_machines  # a machine has a disk of its own
    share = slice(accelerator.local_process_index, None, local)
    made = examples.prepare(loop.first, share)
    tell(f"encoded {made} images and captions, the others were there")
    accelerator.wait_for_everyone()
    _let_encoders_go(model, settings)
    folder, drawn = Path(output), Path(work) / "validation"  # a kill loses no picture
    Path(work).mkdir(parents=True, exist_ok=True)

    def on_validation(step: int) -> None:
        if settings.validation_prompt and accelerator.is_main_process:
            at_end = step == settings.max_train_steps
            images = drawn / ("" if at_end else f"step-{step:06}")
            images.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=work) as adapter:
                save_adapter(model, Path(adapter))
                draw_validation(settings, Path(base), variant, Path(adapter), images, device)
            drew = f"step {step}: drew {settings.num_validation_images} validation images"
            tell(drew, shown=images, step=step)

    history = loop.run(on_validation)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return {}
    save_adapter(model, folder)
    if drawn.is_dir():
        shutil.copytree(drawn, folder / drawn.name)
    report = history.report(settings, task, device)
    history.write(folder, report)
    timings = {
        "seconds": round(time.monotonic() - started, 3),
        "steps_per_second": round(history.steps_per_second, 3),
    }
    write_json(folder / "timings.json", timings)
    return {**report, **timings}


def _noise(model: Architecture, base: str) -> Noise:
    try:
        return model.noise()
    except ValueError as error:
        raise UserError(f"base_model: {base} {error}") from None


def _quantize(
    model: Architecture, base: Path, variant: str | None, settings: TrainingConfig
) -> None:
    """Load the denoiser in NF4 (Dettmers et al. 2023, QLoRA)."""
    from diffusers import BitsAndBytesConfig

    quantized = type(model.component(model.denoiser)).from_pretrained(
        base,
        subfolder=model.denoiser,
        variant=variant,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=FROZEN_TYPES[settings.mixed_precision],
        ),
    )
    model.replace(model.denoiser, quantized)


def _speed(model: Architecture, settings: TrainingConfig, device: str) -> None:
    parts = trained_parts(model, settings)
    denoiser = parts[model.denoiser]
    if settings.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
        for name in parts.keys() - {model.denoiser}:
            parts[name].gradient_checkpointing_enable()
    if settings.channels_last:
        denoiser.to(memory_format=torch.channels_last)
        for weight in trained_weights(model).values():  # peft's DoRA takes them for matrices
            weight.data = weight.data.contiguous()
    if not settings.torch_compile:  # which fuses by itself
        for part in parts.values():
            fuse(part)
    encoding.lower_precision(model, settings, device)


def _let_encoders_go(model: Architecture, settings: TrainingConfig) -> None:
    frozen = () if settings.train_text_encoder else model.text_encoders
    for name in (model.autoencoder, *frozen):
        model.replace(name, None)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def identity_of(
    settings: TrainingConfig, data: str, facts: Facts, resolution: int
) -> dict[str, Any]:
    """All that decides the bits of a run, flat."""
    made = Recipe("checkpoint", "", (__name__,), facts.inputs, facts.config, facts.environment)
    recipe = made.as_dict()
    return {
        **{f"training.{name}": value for name, value in settings.model_dump().items()},
        **{f"encoded.{name}": value for name, value in {**facts.inputs, **facts.config}.items()},
        **recipe["environment"],
        "data": data,
        "data.resolution": resolution,
        "code": recipe["code"],
    }


def _warn_of_long_texts(
    model: Architecture, examples: Examples, settings: TrainingConfig, tell: Progress
) -> None:
    """Once, with the files and what is cut; the tokenizer cuts without a word."""
    texts = {row.file.name: row.text for row in examples.rows}
    for name in ("validation_prompt", "class_prompt"):
        texts[f"training.{name}"] = getattr(settings, name) or ""
    cut = {name: rest for name, text in texts.items() if (rest := model.left_out(text))}
    if cut:
        tell(told_of_long(cut, SHOWN_CAPTIONS))


def draw_validation(
    settings: TrainingConfig,
    base: Path,
    variant: str | None,
    adapter: Path,
    output: Path,
    device: str,
) -> None:
    """Images of `validation_prompt` with the saved adapter, as its users will get them."""
    request = Request(
        settings.validation_prompt or "",
        seed=settings.seed,
        num_inference_steps=settings.validation_num_inference_steps,
        guidance_scale=settings.validation_guidance_scale,
        num_images=settings.num_validation_images,
        scheduler=settings.validation_scheduler,
    )
    [images] = Sampler(base, variant, adapter, device).generate([request])
    for number, image in enumerate(images):
        Image.fromarray(image).save(output / f"{number:02}.png")
