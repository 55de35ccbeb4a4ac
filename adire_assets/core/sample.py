"""Prompts and answers of an evaluation, as its page and the blind sheet show them."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """An encoded image, small enough to stand in a page."""

    media_type: str
    data: bytes
    width: int  # pixels
    height: int

    @property
    def uri(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


Content = Picture | str  # a str is shown as text


@dataclass(frozen=True)
class Answer:
    """One answer: its content, its scores by metric, and a note for people."""

    show: Callable[[], Content]
    scores: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """One prompt and seed of an evaluation. `name` is its own within the evaluation; `real` is an
    answer from the held-out data to hold the others against."""

    name: str
    prompt: str
    seed: int
    adapter: Answer
    base: Answer | None = None
    real: Answer | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt, self.seed
