"""A random language model of a few thousand weights, with its tokenizer, and small datasets."""

import json
from pathlib import Path
from random import Random
from typing import Any

from adire_assets.embedded.letters.letters import letters
from adire_assets.families.causal_lm.training import lora
from tests.support.training import silent

SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-2,
    "lora_alpha": 16,
    "max_train_steps": 8,
    "checkpointing_steps": 4,
    "train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_length": 512,
    "num_processes": 1,
}


def write_base(folder: Path, dtype: Any = None, **config: Any) -> Path:
    """A random Qwen3 (float32, or of `dtype`) with a byte-level tokenizer and its chat template."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from adire_assets.embedded.letters.train import build_tokenizer

    tokenizer = build_tokenizer(0, vocabulary=400, exercises=200, records=60)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    given = Qwen3Config(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **{**sizes, **config},
    )
    Qwen3ForCausalLM(given).to(dtype or torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_dataset(folder: Path, train: int = 12, validation: int = 4, held_out: int = 4) -> Path:
    """A dataset artifact's folder of the workshop's letters."""
    records = list(letters(train + validation + held_out, 0))
    Random(0).shuffle(records)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("validation", validation), ("held_out", held_out)):
        taken = [records.pop() for _ in range(count)]
        lines = [json.dumps(_example(n, one), ensure_ascii=False) for n, one in enumerate(taken, 1)]
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    (folder / "summary.json").write_text(json.dumps({"validation": validation}))
    return folder


def _example(number: int, record: dict[str, Any]) -> dict[str, Any]:
    asked = f"{record['instruction']}\n{record['input']}"
    return {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": record["output"]},
        ],
        "slots": record["slots"],
        "language": record["language"],
        "source": f"letters.jsonl:{number}",
    }


def run(folder: Path, base: Path, dataset: Path, progress: Any = silent, **settings: Any) -> Path:
    """Train in this process; returns the folder of the adapter."""
    output = folder / "output"
    output.mkdir(parents=True, exist_ok=True)
    lora.train(
        dataset=str(dataset),
        base=str(base),
        output=str(output),
        training={**SETTINGS, **settings},
        work=str(folder / "work"),
        device="cpu",
        progress=progress,
    )
    return output
