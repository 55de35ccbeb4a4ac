"""Runs TRL's SFTTrainer on a dataset's conversations, and writes down its steps, tokens and losses.

    python start.py RECORD SETTINGS

in TRL's own environment (requirements.txt beside this file), which has nothing of this project.
SETTINGS is a JSON file: `base` and `train` (a folder and a JSONL file of `messages`), `output`,
`lora` (keys of peft's LoraConfig) and `sft` (keys of SFTConfig). RECORD gets {"steps": [...],
"cpu": [...], "losses": [...]}: the monotonic clock's and the processor's seconds when each
optimizer step ended, and its loss.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Notes each step, and the loss that the trainer logs of it."""

    def __init__(self) -> None:
        self.record: dict[str, list[float]] = {"steps": [], "cpu": [], "losses": []}

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.record["steps"].append(time.monotonic())
        self.record["cpu"].append(time.process_time())

    def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, Any], **____: Any) -> None:
        if "loss" in logs:
            self.record["losses"].append(float(logs["loss"]))


def main() -> None:
    record, settings = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text("utf-8"))
    lines = Path(settings["train"]).read_text("utf-8").splitlines()
    clock = Clock()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(settings["base"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(settings["base"]),
        args=SFTConfig(
            output_dir=settings["output"],
            assistant_only_loss=True,
            gradient_checkpointing=False,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            **settings["sft"],
        ),
        train_dataset=Dataset.from_list(
            [{"messages": json.loads(line)["messages"]} for line in lines]
        ),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **settings["lora"]),
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model(settings["output"])
    record.write_text(json.dumps(clock.record))


if __name__ == "__main__":
    main()
