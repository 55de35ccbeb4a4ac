"""LoRA training of a language model, exact and interruptible.

`train` runs in worker children behind what `launch.launcher` starts, as many as `training` says.
It learns from the training split of a dataset artifact and writes, only when all went well, into
`output`:

    adapter_model.safetensors   adapter_config.json   as peft and vLLM read them
    training.json   loss.csv (step,loss)   validation.csv (step,validation_loss)   timings.json

Everything random at optimizer step k is a function of the seed and k alone. So a run that resumes
from its last checkpoint ends in the bits of an uninterrupted one, and on the CPU equal seeds and
thread counts give equal files.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoModelForCausalLM

from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json_lines
from adire_assets.core.lineage import Recipe
from adire_assets.core.model_files import content_hash
from adire_assets.core.store import write_json
from adire_assets.core.worker import Progress
from adire_assets.families.causal_lm.adapter_files import save_adapter
from adire_assets.families.causal_lm.chat import load_tokenizer
from adire_assets.families.causal_lm.generation import Request, Writer
from adire_assets.families.causal_lm.training.attention import lay_side_by_side
from adire_assets.families.causal_lm.training.examples import Examples
from adire_assets.families.causal_lm.training.learning import AnswerLearning
from adire_assets.families.causal_lm.training.settings import TrainingConfig
from adire_assets.families.training.checkpoint import Checkpoints
from adire_assets.families.training.fused_lora import fuse
from adire_assets.families.training.layers import adapt, refuse_unused
from adire_assets.families.training.loop import ShouldPrune, TrainingLoop
from adire_assets.families.training.processes import FROZEN_TYPES, accelerator_for, say_nothing

SHOWN = 3
VALIDATION_TOKENS = 128  # of an answer that is written to be looked at


def train(
    *,
    dataset: str,
    base: str,
    output: str,
    training: dict[str, Any],
    work: str,
    device: str,
    progress: Progress,
    cache: str | None = None,
    should_prune: ShouldPrune = lambda step, validation_loss: False,
) -> dict[str, Any]:
    """Train an adapter and write it into the existing folder `output`; returns training.json.

    `training` is a TrainingConfig as plain values, `device` "cpu" or "cuda". `work` is a folder for
    checkpoints that survives a kill: a run goes on from there; the caller removes it once the
    artifact is in place. `should_prune` is asked at each validation; TrialPruned when it says so.
    UserError when a target module does not exist, a rank is too high, no answer fits into
    max_length, a checkpoint is another run's or the loss stops being a number.
    """
    settings = TrainingConfig.model_validate(training)
    accelerator = accelerator_for(settings, device)
    tell = progress if accelerator.is_main_process else say_nothing
    tell("loading the base model")
    tokenizer = load_tokenizer(Path(base))
    model = load_model(Path(base), settings, accelerator)
    examples = Examples(
        Path(dataset),
        settings,
        tokenizer,
        device=accelerator.device,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    if cut := examples.cut:
        more = f" and {len(cut) - SHOWN} more" if len(cut) > SHOWN else ""
        tell(
            f"{len(cut)} examples are longer than training.max_length, {settings.max_length} "
            f"tokens, and are cut: {', '.join(cut[:SHOWN])}{more}"
        )
    checkpoints = Checkpoints(Path(work), _identity(settings, examples, Path(base), device))
    started = time.monotonic()
    task = AnswerLearning(model, examples, settings, accelerator)
    loop = TrainingLoop(task, settings, accelerator, checkpoints, tell, should_prune)
    asked = read_json_lines(Path(dataset) / "validation.jsonl")[: settings.num_validation_answers]
    Path(work).mkdir(parents=True, exist_ok=True)

    def on_validation(step: int) -> None:
        if asked and accelerator.is_main_process:
            with TemporaryDirectory(dir=work) as adapter, TemporaryDirectory(dir=work) as written:
                save_adapter(model, Path(adapter))
                writer = Writer(Path(base), Path(adapter), device)
                write_answers(writer, asked, Path(written))
                told = f"step {step}: wrote {len(asked)} validation answers"
                tell(told, shown=Path(written), step=step)

    history = loop.run(on_validation)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return {}
    folder = Path(output)
    save_adapter(model, folder)
    report = history.report(settings, task, device)
    history.write(folder, report)
    timings = {
        "seconds": round(time.monotonic() - started, 3),
        "steps_per_second": round(history.steps_per_second, 3),
    }
    write_json(folder / "timings.json", timings)
    return {**report, **timings}


def write_answers(writer: Writer, asked: list[dict[str, Any]], folder: Path) -> None:
    """answers.json: a list of {question, answer}; greedy, to the questions of these examples."""
    told = []
    for one in asked:
        *said, _ = one["messages"]
        [found] = writer.answer([Request(said, VALIDATION_TOKENS)])
        told.append({"question": said[-1]["content"], "answer": found.text})
    write_json(folder / "answers.json", told)


def load_model(base: Path, settings: TrainingConfig, accelerator: Accelerator) -> Any:
    """The frozen base on the training device, with fresh LoRA layers."""
    device = accelerator.device.type
    loaded: dict[str, Any] = {
        "dtype": torch.float32 if device == "cpu" else FROZEN_TYPES[settings.mixed_precision],
        "attn_implementation": "sdpa",
    }
    if settings.quantization == "4bit":  # NF4 (Dettmers et al. 2023, QLoRA)
        from transformers import BitsAndBytesConfig

        loaded["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=FROZEN_TYPES[settings.mixed_precision],
        )
        loaded["device_map"] = {"": accelerator.device}
    model = AutoModelForCausalLM.from_pretrained(base, **loaded)
    _refuse_long(model, base, settings)
    model.requires_grad_(False)
    torch.manual_seed(settings.seed)
    targets = settings.target_modules or linear_layers(model)
    refuse_unused(settings, adapt(model, "base", "training.target_modules", targets, settings))
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if settings.quantization == "none":
        model.to(accelerator.device)
    if settings.packing:
        lay_side_by_side(model, base)
    if settings.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if not settings.torch_compile:  # which fuses by itself
        fuse(model)
    return model


def linear_layers(model: Any) -> list[str]:
    """The endings of all linear layers but the output layer: where a LoRA goes by default."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and layer is not head
        }
    )


def _refuse_long(model: Any, base: Path, settings: TrainingConfig) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    if most and settings.max_length > most:
        raise UserError(
            f"training.max_length: {settings.max_length} tokens are more than the {most} that "
            f"{base} reads; lower it"
        )


def _identity(
    settings: TrainingConfig, examples: Examples, base: Path, device: str
) -> dict[str, Any]:
    """All that decides the bits of a run, flat."""
    environment = lineage.environment(device=device)
    if device == "cpu":
        environment["threads"] = str(torch.get_num_threads())  # of this process, one of several
    made = Recipe("checkpoint", "", (__name__,), {"base": content_hash(base)}, {}, environment)
    recipe = made.as_dict()
    return {
        **{f"training.{name}": value for name, value in settings.model_dump().items()},
        **recipe["inputs"],
        **recipe["environment"],
        "data": examples.digest,
        "code": recipe["code"],
    }
