"""The answers of a model as generate wrote them: answers.jsonl, a line a prompt and sample."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json_lines

FILE = "answers.jsonl"


@dataclass(frozen=True)
class Answer:
    """One answer beside what was expected. Texts are NFC.

    `loss` is the mean negative log-likelihood of the reference's tokens in nats, None where there
    is no reference. `slots` are facts that the answer must repeat.
    """

    prompt: str  # the last message of the user
    text: str
    reference: str | None = None
    slots: Mapping[str, str] = field(default_factory=dict)  # name -> value
    language: str = ""  # such as "zh"; "" is not known
    kind: Literal["held_out", "general"] = "held_out"
    messages: tuple[Mapping[str, str], ...] = ()  # all that was said, up to the prompt
    sample: int = 0  # 0 is greedy, others are drawn
    seed: int | None = None
    finish_reason: Literal["stop", "length"] = "stop"
    tokens: int = 0
    loss: float | None = None
    reference_tokens: int = 0
    question_tokens: int = 0

    @property
    def question(self) -> str:
        """All that the model was told before it answered."""
        return "\n".join(one["content"] for one in self.messages) or self.prompt

    @property
    def expected(self) -> str | None:
        """The reference of a held-out question; None for a general one."""
        return self.reference if self.kind == "held_out" else None


_KEYS = {one.name for one in fields(Answer)}
_REQUIRED = {
    one.name for one in fields(Answer) if one.default is MISSING and one.default_factory is MISSING
}


def read_answers(folder: Path) -> list[Answer]:
    """The answers in an artifact's folder. UserError with file, line and key of what is wrong."""
    path = folder / FILE
    lines = path.read_text(encoding="utf-8").split("\n")
    return [_read(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line]


def _read(line: str, place: str) -> Answer:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error}); generate the answers again") from None
    keys = set(row) if isinstance(row, dict) else set()
    if wrong := sorted(keys - _KEYS) or sorted(_REQUIRED - keys):
        word = "is not known" if wrong[0] in keys else "is missing"
        raise UserError(f"{place}: key {wrong[0]!r} {word}; generate the answers again")
    return Answer(**composed({**row, "messages": tuple(row.get("messages", ()))}))


def composed(value: Any) -> Any:
    """The same with every text in NFC."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, dict):
        return {key: composed(one) for key, one in value.items()}
    return tuple(map(composed, value)) if isinstance(value, tuple) else value


def train_texts_and_slots(dataset: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What training saw, NFC and each once: (the contents of all messages, all slot values) of the
    dataset's train.jsonl."""
    rows = read_json_lines(dataset / "train.jsonl")
    texts = (one["content"] for row in rows for one in row["messages"])
    slots = (value for row in rows for value in row["slots"].values())
    return tuple(dict.fromkeys(map(composed, texts))), tuple(dict.fromkeys(map(composed, slots)))
