"""The files of answers: JSON with the text and its provenance."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json, write_json
from adire_assets.families.causal_lm import serve
from adire_assets.families.causal_lm.evaluation.answers import read_answers
from adire_assets.families.causal_lm.judge_process import question_of

PROVENANCE = "provenance"
DEMONSTRATED = 3  # questions


def files(out: Path, request: Mapping[str, Any]) -> list[Path]:
    """The one file of an answer."""
    return [out]


def save(answer: Answer, paths: Sequence[Path]) -> Iterator[str]:
    """Write an answer into its file; what it says, in lines."""
    [path] = paths
    write_json(path, {"text": answer.content, PROVENANCE: answer.provenance})
    yield answer.content
    yield f"{path}: release {answer.release}"


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance inside a file. UserError when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not an answer that can be read: {reason}") from None
    provenance = found.get(PROVENANCE) if isinstance(found, dict) else None
    if not isinstance(provenance, dict):
        raise UserError(
            f"{path} carries no provenance: it was not written by `adire generate` of this "
            "project's language models"
        )
    return provenance


def position(provenance: Mapping[str, Any]) -> str:
    """Which of the answer's files the one with this provenance is."""
    return "the whole answer"


def demonstrate(
    evaluation: Path, ask: Callable[[Mapping[str, Any]], Answer], out: Path
) -> Iterator[str]:
    """Evaluated questions with the answers of the base and of what is live; then the scores."""
    asked = serve.requests(evaluation)
    bare = (one for one in read_answers(evaluation / "base") if not one.sample)
    base = {question_of(one): one.text for one in bare}
    for request in asked[:: max(len(asked) // DEMONSTRATED, 1)][:DEMONSTRATED]:
        yield f"question: {request['prompt']}"
        yield f"the base: {base.get(request['prompt'], '')}"
        yield f"live:     {ask(request).content}"
        yield ""
    scores = read_json(evaluation / "report.json")["scores"]
    yield " ".join(f"{name}={scores[name]:.3f}" for name in ("rouge_l_char", "slot_f1"))
