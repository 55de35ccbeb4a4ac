"""What a process of a training computes with: accelerate's view of it, and torch's settings."""

import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState

from adire_assets.core.errors import UserError
from adire_assets.families.training.launch import process_count
from adire_assets.families.training.optimizers import needs_bitsandbytes
from adire_assets.families.training.settings import SharedTrainingConfig

PATIENCE = timedelta(days=2)  # of processes that wait for one that encodes
FROZEN_TYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def accelerator_for(settings: SharedTrainingConfig, device: str) -> Accelerator:
    """This process's, with torch set up as `settings` say. UserError for what cannot be here."""
    if settings.mixed_precision == "fp16" and device == "cpu":
        raise UserError("training.mixed_precision: fp16 needs a GPU; on the CPU use no or bf16")
    if settings.quantization == "4bit":
        needs_bitsandbytes("training.quantization: 4bit", device, "none")
    make_deterministic(settings, device)
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train more than once
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        cpu=device == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if accelerator.num_processes != process_count(settings):
        raise UserError(
            f"training.num_processes is {process_count(settings)}, but {accelerator.num_processes} "
            "take part; start as many, or change it"
        )
    return accelerator


def is_deterministic(settings: SharedTrainingConfig, device: str) -> bool:
    return device == "cpu" if settings.deterministic is None else settings.deterministic


def make_deterministic(settings: SharedTrainingConfig, device: str) -> None:
    """Set torch up as `deterministic` says; for the whole process."""
    wanted = is_deterministic(settings, device)
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(wanted)
    # Nothing here reads what it has not written, so new tensors need no filling.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not wanted
    torch.set_float32_matmul_precision("highest" if wanted or device == "cpu" else "high")


def say_nothing(message: str, shown: Path | None = None, **numbers: float) -> None:
    """The progress of all processes but the first."""
