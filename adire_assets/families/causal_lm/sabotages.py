"""Trainings that the gates must refuse, for the gates' benchmark."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from safetensors.numpy import load_file, save_file

from adire_assets.core.files import read_json_lines
from adire_assets.core.sabotage import Sabotage
from adire_assets.families.causal_lm.adapter_files import PREFIX, WEIGHTS
from adire_assets.families.causal_lm.training.settings import TrainingConfig

Record = dict[str, Any]
KEPT = 10  # examples of the adapter that learns them by heart
UNNEEDED = ("num_validation_answers",)  # settings of a training that only cost time


def sabotages(training: TrainingConfig) -> dict[str, Sabotage]:
    """By name:

    rate         the learning rate times 30
    shuffled     the answers of other questions
    template     questions in the form of another template
    prompts      trained on the questions as well
    slots        each answer with the facts of another question
    half         half of the steps, stopped where the schedule is at its height
    prefix       a sound adapter whose keys name no layer
    memorised    KEPT examples alone
    """
    half = {"max_train_steps": training.max_train_steps // 2}
    return {
        "rate": Sabotage({"learning_rate": training.learning_rate * 30}),
        "shuffled": Sabotage(dataset=_changed(_shuffle)),
        "template": Sabotage(dataset=_changed(_other_template)),
        "prompts": Sabotage({"assistant_only_loss": False}),
        "slots": Sabotage(dataset=_changed(_swap_slots)),
        "half": Sabotage(half | {"lr_scheduler": "constant_with_warmup"}),
        "prefix": Sabotage(adapter=_rename),
        "memorised": Sabotage(dataset=_changed(_keep), evaluated=True),
    }


def _changed(change: Callable[[list[Record], Random], list[Record]]) -> Callable[[Path, int], None]:
    """Let the training examples of a dataset's folder go through `change(records, random)`."""

    def spoil(dataset: Path, seed: int) -> None:
        file = dataset / "train.jsonl"
        records = change(read_json_lines(file), Random(seed))
        written = (json.dumps(one, ensure_ascii=False) for one in records)
        file.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")

    return spoil


def _answered(record: Record, answer: str) -> Record:
    messages = [*record["messages"][:-1], {"role": "assistant", "content": answer}]
    return {**record, "messages": messages}


def _shuffle(records: list[Record], random: Random) -> list[Record]:
    """Each answer goes to another question: a rotation of a random order."""
    order = random.sample(records, len(records))
    following = [*order[1:], *order[:1]]
    return [
        _answered(one, other["messages"][-1]["content"])
        for one, other in zip(order, following, strict=True)
    ]


def _other_template(records: list[Record], random: Random) -> list[Record]:
    def asked(message: dict[str, str]) -> dict[str, str]:
        text = f"### Instruction:\n{message['content']}\n\n### Response:\n"
        return {**message, "content": text} if message["role"] == "user" else message

    return [{**one, "messages": [asked(message) for message in one["messages"]]} for one in records]


def _swap_slots(records: list[Record], random: Random) -> list[Record]:
    """A slot's value in the answer becomes that of another record with such a slot."""
    values: dict[str, list[str]] = {}
    for one in records:
        for name, value in one["slots"].items():
            values.setdefault(name, []).append(value)

    def spoilt(record: Record) -> Record:
        answer = record["messages"][-1]["content"]
        for name, value in record["slots"].items():
            others = [other for other in values[name] if other != value]
            answer = answer.replace(value, random.choice(others)) if others else answer
        return _answered(record, answer)

    return [spoilt(one) for one in records]


def _keep(records: list[Record], random: Random) -> list[Record]:
    return random.sample(records, min(KEPT, len(records)))


def _rename(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    renamed = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    save_file(renamed, adapter / WEIGHTS, {"format": "pt"})
