"""What a served model is asked and what it answers: types that several rooms share."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a release answered. `content` is the family's, and opaque to all others."""

    release: int
    provenance: dict[str, Any]
    content: Any


@dataclass(frozen=True)
class Progress:
    """How far an answer has come, for a person: a `share` of the work, perhaps a `picture` of it as
    it is now (a JPEG), and its `content` when it is whole."""

    share: float
    picture: bytes | None = None
    content: Any = None


@dataclass(frozen=True)
class UsualRequest:
    """What a request of the default size takes: so many `seconds` of its engine, by the least that
    others were seen to take; beside requests to other releases `shared` times as much.
    Releases of a slot that name the same `engine` share it.
    """

    engine: str
    seconds: float
    shared: float = 1.0


@dataclass(frozen=True)
class RequestOption:
    """A key of a request beside `prompt`, as `adire generate` takes it (num_images: --num-images).

    `kind` is int, float or str; a number lies within `lowest` and `highest`.
    """

    name: str
    kind: type
    help: str = ""
    lowest: float | None = None
    highest: float | None = None


@dataclass(frozen=True)
class Served:
    """How the answers of a family are asked for, kept and judged.

    `suffix` ends the names of their files, such as ".png". `quality` is what the judge scores, such
    as "CLIP-S": more is better, and none is below 0. A rollout divides a score by the one evaluated
    for the same request, and clips the ratio to `quality_range`.
    With `chat`, a request may hold `messages` ({role, content} each) that end with its `prompt`,
    and an answer is a text that can come in pieces.
    """

    suffix: str
    quality: str
    quality_range: tuple[float, float] = (0.0, 1.5)
    options: tuple[RequestOption, ...] = ()
    chat: bool = False
