"""LoRA training of a diffusion base: the classic recipe, exact and interruptible.

`train` runs in a worker child behind `accelerate launch`. It learns from the training split of a
dataset artefact and writes, only when all went well, into `output`:

    pytorch_lora_weights.safetensors   loads with stock `pipe.load_lora_weights(output)`
    training.json   loss.csv (step,loss)   validation/*.png   timings.json

Everything that is drawn at random at optimizer step k (images, crops, flips, latents, timesteps,
noise, dropout) is a function of the seed and k alone. So a run that was killed and goes on from its
last checkpoint ends in the bits of an undisturbed one, and on the CPU equal seeds and thread counts
give equal files.
"""

import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from adire_assets import lineage
from adire_assets.config import TrainingConfig
from adire_assets.diffusion.adapter_file import save_adapter
from adire_assets.diffusion.base import content_hash
from adire_assets.diffusion.checkpoint import Checkpoints, State
from adire_assets.diffusion.examples import STEP_STREAM, Batch, Examples, stream
from adire_assets.diffusion.sampling import Request, Sampler, load_pipeline
from adire_assets.errors import UserError
from adire_assets.store import write_json
from adire_assets.worker import Progress

TEXT_ENCODER_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]
FROZEN_TYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PREDICTION_TYPES = ("epsilon", "v_prediction")
REPORT_SECONDS = 4.0
LOSSES_TOGETHER = 10  # on CUDA, losses are fetched every so many steps: each fetch waits for all


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
) -> dict:
    """Train an adapter and write it into the existing folder `output`; returns training.json.

    `training` is a TrainingConfig as plain values, `device` "cpu" or "cuda". `work` is a folder for
    checkpoints that survives a kill: a run with equal config, data, base, code and machine goes on
    from there, any other starts afresh; the caller removes it once the artefact is in place.
    UserError when a target module does not exist or the loss stops being a number.
    """
    settings = TrainingConfig.model_validate(training)
    if settings.mixed_precision == "fp16" and device == "cpu":
        raise UserError("training.mixed_precision: fp16 needs a GPU; on the CPU use no or bf16")
    progress("loading the base model")
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train more than once
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        cpu=device == "cpu",
    )
    pipe = load_pipeline(Path(base), variant, torch.float32)
    if "text_encoder_2" in pipe.components:
        raise UserError(
            f"base_model: {base} has two text encoders; training knows Stable Diffusion 1 and 2"
        )
    add_lora(pipe, settings)
    pipe.to(accelerator.device)
    if device == "cuda":  # the CPU's layer norm takes no parameters of another type than its input
        for module in (
            pipe.unet,
            pipe.text_encoder,
        ):  # the autoencoder works once per image, exactly
            for weight in module.parameters():
                if not weight.requires_grad:
                    weight.data = weight.data.to(FROZEN_TYPES[settings.mixed_precision])
    schedule: Any = DDPMScheduler.from_config(pipe.scheduler.config)
    if schedule.config.prediction_type not in PREDICTION_TYPES:
        raise UserError(
            f"base_model: {base} has a schedule of prediction_type "
            f"{schedule.config.prediction_type}; training knows {', '.join(PREDICTION_TYPES)}"
        )
    examples = Examples(
        Path(dataset), pipe, settings, resolution, schedule.config.num_train_timesteps
    )
    identity = {
        "training": settings.model_dump(),
        "data": examples.digest,
        "base": content_hash(Path(base)),
        "variant": variant,
        "resolution": resolution,
        "code": lineage.code_hash((__name__,)),
        "environment": lineage.environment(*lineage.TRAINING_PACKAGES, device=device),
        "threads": torch.get_num_threads(),
    }
    checkpoints = Checkpoints(Path(work), lineage.digest(identity))
    started = time.monotonic()
    losses, rate = fit(pipe, schedule, examples, settings, accelerator, checkpoints, progress)
    folder = Path(output)
    save_adapter(pipe, folder)
    parameters = sum(weight.numel() for weight in trained_weights(pipe).values())
    del pipe, examples
    if settings.validation_prompt:
        draw_validation(settings, Path(base), variant, folder, device, progress)
    report = {
        "steps": settings.max_train_steps,
        "final_loss": _mean(losses[-settings.checkpointing_steps :]),
        "first_loss": _mean(losses[: settings.checkpointing_steps]),
        "trained_parameters": parameters,
        "threads": torch.get_num_threads(),
        "device": device,
    }
    write_json(folder / "training.json", report)
    rows = (f"{step},{loss:.6g}" for step, loss in enumerate(losses, start=1))
    (folder / "loss.csv").write_text("\n".join(["step,loss", *rows]) + "\n", encoding="utf-8")
    timings = {
        "seconds": round(time.monotonic() - started, 3),
        "steps_per_second": round(rate, 3),
    }
    write_json(folder / "timings.json", timings)
    return {**report, **timings}


def add_lora(pipe: Any, settings: TrainingConfig) -> None:
    """Freeze the pipeline and put fresh LoRA layers (float32, B = 0) on what the config names."""
    torch.manual_seed(settings.seed)
    for module in (pipe.unet, pipe.text_encoder, pipe.vae):
        module.requires_grad_(False)
    wanted = {"unet": settings.target_modules}
    if settings.train_text_encoder:
        wanted["text_encoder"] = TEXT_ENCODER_TARGETS
    for component, targets in wanted.items():
        model = getattr(pipe, component)
        _check_targets(model, component, targets)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]
            lora_dropout=settings.lora_dropout,
            init_lora_weights="gaussian",
            target_modules=targets,
        )
        try:
            model.add_adapter(config)
        except ValueError as error:
            raise UserError(f"training.target_modules: {error}") from None
        model.train()


def _check_targets(model: nn.Module, component: str, targets: list[str]) -> None:
    layers = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    missing = [
        target
        for target in targets
        if not any(name == target or name.endswith(f".{target}") for name in layers)
    ]
    if missing:
        parts = (name.split(".") for name in layers)
        # A number alone names nothing: show to_out.0, not 0.
        known = {".".join(part[-2:] if part[-1].isdigit() else part[-1:]) for part in parts}
        raise UserError(
            f"training.target_modules: the {component} has no linear or convolution layer whose "
            f"name ends in {', '.join(missing)}; endings there: {', '.join(sorted(known))}"
        )


def trained_weights(pipe: Any) -> dict[str, nn.Parameter]:
    """{component.name: weight} of everything that learns, in a fixed order."""
    return {
        f"{component}.{name}": weight
        for component in ("unet", "text_encoder")
        for name, weight in getattr(pipe, component).named_parameters()
        if weight.requires_grad
    }


def fit(
    pipe: Any,
    schedule: Any,  # a DDPMScheduler
    examples: Examples,
    settings: TrainingConfig,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    progress: Progress,
) -> tuple[list[float], float]:
    """Run the optimizer to `max_train_steps`; returns the loss of every step and steps/s."""
    weights = trained_weights(pipe)
    optimizer = torch.optim.AdamW(
        weights.values(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.adam_weight_decay,
        eps=settings.adam_epsilon,
        fused=True,
    )
    rates = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    ).lr_lambdas[0]
    first, losses = _restore(checkpoints, weights, optimizer, accelerator)
    if first:
        progress(f"going on from the checkpoint at step {first}", step=first)
    unet, prepared = accelerator.prepare(pipe.unet, optimizer)
    together = 1 if accelerator.device.type == "cpu" else LOSSES_TOGETHER
    pending: list[Tensor] = []
    total, started, reported = settings.max_train_steps, time.monotonic(), 0.0
    rate = 0.0
    for step in range(first, total):
        torch.manual_seed(stream(settings.seed, STEP_STREAM, step))  # for dropout
        learning_rate = settings.learning_rate * rates(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        parts = []
        for batch in examples.batches(step):
            with accelerator.accumulate(unet):
                loss = _loss(unet, schedule, examples, batch, settings, accelerator)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(weights.values(), settings.max_grad_norm)
                prepared.step()
                prepared.zero_grad()
            parts.append(loss.detach())
        pending.append(torch.stack(parts).mean())
        done = step + 1
        checkpoint = done % settings.checkpointing_steps == 0 or done == total
        if checkpoint or len(pending) >= together:
            losses += _finite(pending, len(losses), settings)
            pending = []
        if checkpoint:
            _check_weights(weights, done, settings)
            checkpoints.save(_state(done, weights, optimizer, losses, accelerator))
        now = time.monotonic()
        rate = (done - first) / (now - started)
        if losses and (checkpoint or now - reported >= REPORT_SECONDS):
            reported = now
            recent = _mean(losses[-settings.checkpointing_steps :])
            progress(
                f"step {done}/{total} loss {recent:.4f} {rate:.1f} steps/s "
                f"{_clock((total - done) / rate)} left",
                step=done,
                loss=recent,
                learning_rate=learning_rate,
                steps_per_second=rate,
            )
    return losses, rate


def _loss(
    unet: nn.Module,
    schedule: Any,  # a DDPMScheduler
    examples: Examples,
    batch: Batch,
    settings: TrainingConfig,
    accelerator: Accelerator,
) -> Tensor:
    """Mean squared error of what the base's schedule predicts."""
    noisy = schedule.add_noise(batch.clean, batch.noise, batch.timesteps)
    target = target_of(schedule, batch.clean, batch.noise, batch.timesteps)
    with accelerator.autocast():
        if settings.train_text_encoder:
            pipe = examples.pipe
            text = pipe.encode_prompt(batch.captions, pipe.unet.device, 1, False)[0]
        else:
            text = examples.texts(batch.captions)
        predicted = unet(noisy, batch.timesteps, text, return_dict=False)[0]
    return functional.mse_loss(predicted.float(), target.float())


def target_of(schedule: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the base predicts at `timesteps`, [B, C, h, w]: the noise, or the velocity.

    Velocity is sqrt(a) noise - sqrt(1 - a) clean, Salimans and Ho 2022.
    """
    if schedule.config.prediction_type == "v_prediction":
        return schedule.get_velocity(clean, noise, timesteps)
    return noise


def _restore(
    checkpoints: Checkpoints,
    weights: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> tuple[int, list[float]]:
    """Put the last checkpoint back; returns (steps done, their losses)."""
    state = checkpoints.load()
    if state is None:
        return 0, []
    for name, weight in weights.items():
        weight.data.copy_(state.weights[name])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in state.optimizer.items():
        number, slot = name.split(".")
        slots.setdefault(int(number), {})[slot] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state.extra["scaler"])
    return state.step, state.extra["losses"]


def _state(
    step: int,
    weights: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    accelerator: Accelerator,
) -> State:
    slots = {
        f"{number}.{slot}": value
        for number, values in optimizer.state_dict()["state"].items()
        for slot, value in values.items()
    }
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
    tensors = {name: weight.detach() for name, weight in weights.items()}
    return State(step, tensors, slots, {"losses": losses, "scaler": scaler})


def _finite(pending: list[Tensor], before: int, settings: TrainingConfig) -> list[float]:
    values = torch.stack(pending)
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        raise _diverged(f"the loss became NaN at step {before + int(bad[0]) + 1}", settings)
    return values.tolist()


def _check_weights(weights: dict[str, nn.Parameter], step: int, settings: TrainingConfig) -> None:
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise _diverged(f"the adapter's weights became NaN at step {step}", settings)


def _diverged(what: str, settings: TrainingConfig) -> UserError:
    return UserError(f"{what}: lower training.learning_rate (now {settings.learning_rate:g})")


def draw_validation(
    settings: TrainingConfig,
    base: Path,
    variant: str | None,
    folder: Path,
    device: str,
    progress: Progress,
) -> None:
    """Images of `validation_prompt` with the saved adapter, as its users will get them."""
    progress(f"drawing {settings.num_validation_images} validation images")
    request = Request(
        settings.validation_prompt or "",
        seed=settings.seed,
        num_inference_steps=settings.validation_num_inference_steps,
        guidance_scale=settings.validation_guidance_scale,
        num_images=settings.num_validation_images,
    )
    [images] = Sampler(base, variant, folder, device).generate([request])
    (folder / "validation").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / "validation" / f"{number:02}.png")


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 6)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
