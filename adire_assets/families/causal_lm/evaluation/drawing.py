"""What an evaluation has answered: the part of its settings that the answers depend on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adire_assets.core.files import read_json_lines

TIMED_BY = ("max_tokens",)  # what the time of an answer depends on
SETTINGS = ("samples", "temperature", "top_p", "max_tokens", "latency_answers")


def drawing_of(evaluation: Mapping[str, Any], dataset: Path) -> dict[str, Any]:
    """The questions of the held-out examples, evenly spaced where there are more than
    `prompts_maximum`, then the general ones; and how they are answered."""
    records = read_json_lines(dataset / "held_out.jsonl")
    most = evaluation["prompts_maximum"]
    if len(records) > most:
        records = [records[place * len(records) // most] for place in range(most)]
    held_out = [
        {
            "kind": "held_out",
            "messages": one["messages"][:-1],
            "reference": one["messages"][-1]["content"],
            "slots": one["slots"],
            "language": one["language"],
        }
        for one in records
    ]
    general = [{"kind": "general", **one} for one in evaluation["general_prompts"]]
    return {
        "questions": [*held_out, *general],
        **{name: evaluation[name] for name in SETTINGS},
    }
