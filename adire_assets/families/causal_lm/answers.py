"""The files of answers: JSON with the text and its provenance."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.core.answer_token import digest
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json, write_json
from adire_assets.families.causal_lm import serve
from adire_assets.families.causal_lm.evaluation.answers import read_answers
from adire_assets.families.causal_lm.judge_process import question_of

PROVENANCE = "provenance"
RELEASE = re.compile(r"([a-z][a-z0-9_]*)@([0-9]{1,9})")  # OpenAI's `model`
HASH = re.compile(r"[0-9a-f]{16,64}")
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


def read_provenance(path: Path) -> dict[str, Any] | None:
    """The provenance inside a file that `save` wrote, or that a client of OpenAI's interface saved:
    in one piece, or as the events of a stream. An answer without it names its release by `model`.

    UserError for an answer that failed, or that names no release.
    """
    parts = _parts(path)
    for part in parts:
        if isinstance(part.get(PROVENANCE), dict):
            return dict(part[PROVENANCE])
    answers = [part for part in parts if isinstance(part.get("choices"), list)]
    if not answers:
        failed = next((part["error"] for part in parts if "error" in part), None)
        if failed is None:
            return None
        said = failed.get("message") if isinstance(failed, dict) else failed
        raise UserError(f"{path} is no answer but a refusal: {said}")
    names = sorted({str(part.get("model")) for part in answers})
    named = RELEASE.fullmatch(names[0])
    if named is None or len(names) > 1:
        raise UserError(
            f"{path}: its `model` is {' and '.join(names)}, which names no release such as "
            "letters@3: no gateway of this project gave it, or its client changed it"
        )
    hashes = (str(part.get("system_fingerprint")) for part in answers)
    known = next((one for one in hashes if HASH.fullmatch(one)), "")
    return {"model": named[1], "release": int(named[2]), "release_hash": known}


def part(provenance: Mapping[str, Any]) -> int:
    """Which part of its answer a file is: there is one."""
    return 0


def rewritten(file: Path, out: Path, expected: str) -> bool:
    """Write the file of an answer that `save` wrote anew, with text and provenance alone; False,
    with nothing written, unless `expected` is the SHA-256 of the text (see `core.answer_token`).
    UserError for another file."""
    parts = _parts(file)
    text = parts[0].get("text") if len(parts) == 1 else None
    if not isinstance(text, str):
        raise UserError(f"{file} is no answer that `adire generate` or the studio has saved")
    if digest(text.encode("utf-8", errors="replace")) != expected:
        return False
    provenance = parts[0].get(PROVENANCE)
    write_json(out, {"text": text, PROVENANCE: provenance if isinstance(provenance, dict) else {}})
    return True


def _parts(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file: one, a list, or one a line, perhaps as events; none where the
    file is something else. A head, which `curl -i` writes, is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    if text.startswith("HTTP/"):
        text = text.replace("\r\n", "\n").partition("\n\n")[2]
    try:
        found = [json.loads(text)]
    except (ValueError, RecursionError):
        found = []
        for line in text.split("\n"):
            with suppress(ValueError, RecursionError):  # the last event may be cut; [DONE] is none
                found.append(json.loads(line.removeprefix("data:")))
    whole = found[0] if len(found) == 1 and isinstance(found[0], list) else found
    return [part for part in whole if isinstance(part, dict)]


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
