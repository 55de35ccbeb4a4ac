"""What the children of benchmarks/training_language.py do: data, our trainer, the judgement.

Each function is a job of `adire_assets.core.worker`.
"""

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from adire_assets.core.worker import Progress
from adire_assets.families.causal_lm.chat import Encoded, encode, load_tokenizer
from benchmarks.watched import step_clock


def prepare(
    *, letters: str, count: int, base: str, make_base: bool, progress: Progress
) -> dict[str, Any]:
    """Write so many letters, and a base of the embedded one's size where there is none."""
    from adire_assets.embedded.letters.letters import write_letters
    from adire_assets.embedded.letters.train import build_model, build_tokenizer

    write_letters(Path(letters), count)
    if make_base:
        tokenizer = build_tokenizer(0)
        build_model(tokenizer, 0).save_pretrained(base)
        tokenizer.save_pretrained(base)
    return {"base": base}


def count(*, base: str, file: str, progress: Progress) -> int:
    """The tokens of a split."""
    return sum(len(example.ids) for example in _encoded(Path(base), Path(file)))


def ours(
    *,
    dataset: str,
    base: str,
    output: str,
    training: dict[str, Any],
    work: str,
    progress: Progress,
) -> dict[str, Any]:
    """The product's training step; returns {"steps", "cpu", "losses"} as peer/trl/start.py does."""
    from adire_assets.families.causal_lm.training import lora

    with step_clock() as steps, step_clock(time.process_time) as cpu:
        report = lora.train(
            dataset=dataset,
            base=base,
            output=output,
            training=training,
            work=work,
            device="cpu",
            progress=progress,
        )
    if not report:  # this process helped the first one
        return {}
    with (Path(output) / "loss.csv").open(encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return {"steps": steps, "cpu": cpu, "losses": losses}


@torch.no_grad()
def judge(
    *, file: str, base: str, adapters: dict[str, str], progress: Progress
) -> dict[str, float]:
    """{name: loss in nats of a token of the answers} of each adapter, and of the "base".

    Each example is computed alone, by transformers and peft.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    examples = list(_encoded(Path(base), Path(file)))
    said = sum(sum(example.said[1:]) for example in examples)
    losses = {}
    for name, folder in {"base": None, **adapters}.items():
        model = AutoModelForCausalLM.from_pretrained(base)
        model = (PeftModel.from_pretrained(model, folder) if folder else model).eval()
        losses[name] = sum(_loss(model, example) for example in examples) / said
    return losses


def _loss(model: Any, example: Encoded) -> float:
    ids = torch.tensor(example.ids)
    own = torch.tensor(example.said[1:])
    logits = model(input_ids=ids[None]).logits[0, :-1]
    return float(cross_entropy(logits[own], ids[1:][own], reduction="sum"))


def _encoded(base: Path, file: Path) -> Iterator[Encoded]:
    tokenizer = load_tokenizer(base)
    for line in file.read_text(encoding="utf-8").splitlines():
        yield encode(tokenizer, json.loads(line)["messages"])
