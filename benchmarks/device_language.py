"""What a GPU is asked of language models: the parts that benchmarks/device.py runs.

The base has the sizes of Qwen3-0.6B, its vocabulary included, and random weights: answers are
noise, but time and memory are those of a trained one. A part is `run(folder, dry)`: figures, or
with `dry` only whether it could. Of several GPUs nothing is asked: DDP and FSDP are tested
on the CPU.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = 20
EXAMPLES = 256
Figures = dict[str, Any]


def base(folder: Path, dry: bool) -> Figures:
    """Qwen3-0.6B's sizes in bfloat16, a tokenizer of the letters, and letters."""
    import torch

    from tests.support import language

    if dry:
        return {}
    place = folder / "language"
    language.write_base(
        place / "base",
        torch.bfloat16,
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=4096,
        initializer_range=0.02,
    )
    language.write_dataset(place / "dataset", train=EXAMPLES)
    return {"examples": EXAMPLES}


def _small(folder: Path) -> tuple[Path, Path]:
    """A base of a few thousand weights and its letters, made when they are not there."""
    from tests.support import language

    small = folder / "small_language"
    if not small.is_dir():
        language.write_base(small / "base")
        language.write_dataset(small / "dataset")
    return small / "base", small / "dataset"


def _settings(**training: Any) -> dict[str, Any]:
    return {
        "learning_rate": 1e-4,
        "rank": 16,
        "lora_alpha": 32,
        "max_length": 1024,
        "max_train_steps": STEPS,
        "checkpointing_steps": STEPS // 2,
        "train_batch_size": 16,
        "gradient_accumulation_steps": 1,
        **training,
    }


def _train(folder: Path, name: str, place: Path, dataset: Path, **training: Any) -> Figures:
    """Figures of a training, its losses and the digest of its adapter."""
    import torch

    from adire_assets.core.lineage import file_digest
    from adire_assets.families.causal_lm.adapter_files import WEIGHTS
    from adire_assets.families.causal_lm.training import lora
    from tests.support.training import curve, silent

    output = folder / "trained_language" / name
    output.mkdir(parents=True)
    torch.cuda.reset_peak_memory_stats()
    result = lora.train(
        dataset=str(dataset),
        base=str(place),
        output=str(output),
        training=_settings(**training),
        work=str(folder / "work_language" / name),
        device="cuda",
        progress=silent,
    )
    return {
        "steps_per_second": result["steps_per_second"],
        "peak_memory_mib": torch.cuda.max_memory_allocated() // 2**20,
        "loss": round(result["final_loss"], 4),
        "losses": list(curve(output).values()),
        "sha256": file_digest(output / WEIGHTS)[:12],
    }


def training(name: str, **settings: Any) -> Callable[[Path, bool], Figures]:
    """A part that trains the large base with these settings."""

    def run(folder: Path, dry: bool) -> Figures:
        from adire_assets.families.causal_lm.training.settings import TrainingConfig

        TrainingConfig.model_validate(_settings(**settings))
        if dry:
            return {}
        place = folder / "language"
        found = _train(folder, name, place / "base", place / "dataset", **settings)
        del found["losses"]
        return found

    return run


def equal_bits(folder: Path, dry: bool) -> Figures:
    """Two trainings with `deterministic: true` give the same file."""
    if dry:
        return {}
    made = {
        _train(folder, f"equal-{n}", *_small(folder), max_length=512, deterministic=True)["sha256"]
        for n in range(2)
    }
    if len(made) > 1:
        raise RuntimeError(f"two deterministic trainings differ: {sorted(made)}")
    return {"sha256": made.pop()}


def packed_losses(folder: Path, dry: bool) -> Figures:
    """Examples in one row learn what they learn in rows of their own."""
    if dry:
        return {}
    packed, alone = (
        _train(folder, f"packing-{packing}", *_small(folder), max_length=512, packing=packing)
        for packing in (True, False)
    )
    off = max(abs(a - b) / b for a, b in zip(packed["losses"], alone["losses"], strict=True))
    if off > 1e-2:
        raise RuntimeError(f"the losses of packed examples are off by {off:.1%}")
    return {"largest_relative_difference": f"{off:.1e}"}


def answers(folder: Path, dry: bool) -> Figures:
    """Answers with a LoRA in half precision: tokens a second, and the time to the first."""
    from adire_assets.families.causal_lm.generation import Request, Writer

    if dry:
        return {}
    adapter = folder / "trained_language" / "language_bf16"
    writer = Writer(folder / "language" / "base", adapter, "cuda")
    found: Figures = {}
    for count in (1, 8):
        asked = [Request([{"role": "user", "content": "Write a letter."}], max_tokens=128)] * count
        writer.answer(asked)  # warms up
        started = time.perf_counter()
        written = writer.answer(asked)
        seconds = time.perf_counter() - started
        found[f"tokens_per_second_{count}"] = round(sum(one.tokens for one in written) / seconds)
        found[f"first_token_ms_{count}"] = round(1000 * written[0].first_token_seconds)
    return found


BASE = "language_base"
BITS = ("bitsandbytes",)
PARTS = (
    (BASE, "Qwen3-0.6B's sizes, random weights", base),
    ("language_fp32", "LoRA in full precision", training("language_fp32")),
    ("language_bf16", "in bf16", training("language_bf16", mixed_precision="bf16")),
    (
        "language_padded",
        "bf16 with a row for each example",
        training("language_padded", mixed_precision="bf16", packing=False),
    ),
    (
        "language_lean",
        "bf16 with gradient checkpointing",
        training("language_lean", mixed_precision="bf16", gradient_checkpointing=True),
    ),
    (
        "language_8bit_adam",
        "bf16 with 8-bit AdamW",
        training("language_8bit_adam", mixed_precision="bf16", optimizer="adamw_8bit"),
        BITS,
    ),
    (
        "language_qlora",
        "bf16 on a base in 4 bits",
        training("language_qlora", mixed_precision="bf16", quantization="4bit"),
        BITS,
    ),
    (
        "language_compiled",
        "bf16 with torch.compile",
        training("language_compiled", mixed_precision="bf16", torch_compile=True),
    ),
    ("language_equal_bits", "two deterministic trainings", equal_bits),
    ("language_packed_losses", "packed and padded losses agree", packed_losses),
    ("language_answers", "tokens a second of an answer", answers),
)
