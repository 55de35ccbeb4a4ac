"""What a release of a language model is asked, and whether it answers with the evaluated texts.

A request is the body of OpenAI's chat interface without the model. The greedy answers are what a
release must repeat: character by character on the CPU; where a GPU wrote either side, a sum in
another order may turn one word, and all behind it, so that a share of the characters must agree.
Answers of a rollout are drawn with seeds that no evaluation has used, and each is held against what
the evaluated ones to the same question score.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.core.files import read_json
from adire_assets.families.causal_lm.artifacts import ASKED
from adire_assets.families.causal_lm.evaluation import answers
from adire_assets.families.causal_lm.evaluation.metrics.rouge_l import rouge_l
from adire_assets.families.causal_lm.judge_process import question_of, scores_of

SMALLEST_AGREEMENT = 0.9  # of the characters, in order; with a GPU
FIRST_SEED = 1_000_000  # far from the small seeds that evaluations use
ASKED_BY = ("messages", "max_tokens", "temperature", "top_p", "seed")


def requests(evaluation: Path) -> list[dict[str, Any]]:
    """What each greedy answer was asked for by; `drawn` is how the others were."""
    asked = read_json(evaluation / ASKED)
    drawn = {name: asked[name] for name in ("temperature", "top_p")} if asked["samples"] else None
    return [
        {
            "prompt": question_of(one),
            "messages": [dict(message) for message in one.messages],
            "max_tokens": asked["max_tokens"],
            "temperature": 0.0,
            "drawn": drawn,
        }
        for one in _greedy(evaluation)
    ]


def expected(evaluation: Path) -> list[float]:
    """Of each request, the mean score of the answers drawn to its question, or of the greedy one
    where none was drawn; 0 where nothing tells what is right."""
    found = answers.read_answers(evaluation)
    scores: dict[str, list[float]] = {}
    for one, score in zip(found, scores_of(found), strict=True):
        if one.sample or not read_json(evaluation / ASKED)["samples"]:
            scores.setdefault(question_of(one), []).append(score)
    return [mean(scores[question_of(one)]) for one in _greedy(evaluation)]


def repeated(serving: Mapping[str, Any]) -> int:
    """How many evaluated answers a release must repeat."""
    return int(serving["parity_answers"])


def probe(request: Mapping[str, Any]) -> dict[str, Any]:
    """The cheapest request of this kind."""
    return {**request, "max_tokens": 1}


def again(request: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
    """The same, drawn with a seed that no evaluation has used; as it is where none was drawn."""
    if not request["drawn"]:
        return dict(request)
    return {**request, **request["drawn"], "seed": FIRST_SEED + chance.randrange(FIRST_SEED)}


def inputs(request: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the request; a `prompt` alone is what the user says."""
    body = {name: request[name] for name in ASKED_BY if request.get(name) is not None}
    return {"messages": [{"role": "user", "content": request["prompt"]}], **body}


def prompt(asked: Mapping[str, Any]) -> str:
    """What the user said last. KeyError or TypeError without a text."""
    said = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
    if not isinstance(said, str):
        raise TypeError("what the user says is no text")
    return said


def content(answer: Mapping[str, Any]) -> str:
    """The text of an answer. KeyError or TypeError when there is none."""
    text = answer["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise TypeError("its message is no text")
    return text


def piece(event: Mapping[str, Any]) -> str:
    """The text in an event of a streamed answer; the last one may have none."""
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def parity(evaluation: Path, given: Sequence[Answer], on_cpu: bool) -> dict[str, Any]:
    """{passed, explanation, answers, equal, smallest_agreement} of the answers to the first
    evaluated requests; `on_cpu`: nothing of both sides was written by a GPU."""
    pairs = [
        (_readable(answers.composed(answer.content)), _readable(one.text))
        for answer, one in zip(given, _greedy(evaluation), strict=False)
    ]
    if not pairs:
        return _facts(False, "the evaluation has no answers to compare with", 0, 0, None)
    equal = sum(served == evaluated for served, evaluated in pairs)
    agreement = min(rouge_l(served, evaluated) for served, evaluated in pairs)
    says = f"{equal} of {len(pairs)} evaluated answers are repeated by the release as they were"
    if on_cpu:
        passed = equal == len(pairs)
        if not passed:
            differing = next(pair for pair in pairs if pair[0] != pair[1])
            says += ": it answers {!r}, evaluated was {!r}".format(*(t[:80] for t in differing))
    else:
        passed = agreement >= SMALLEST_AGREEMENT
        says += (
            f"; the others agree in at least {agreement:.1%} of their characters, required are "
            f"{SMALLEST_AGREEMENT:.0%}"
        )
    return _facts(passed, says, len(pairs), equal, agreement)


def _facts(
    passed: bool, explanation: str, count: int, equal: int, agreement: float | None
) -> dict[str, Any]:
    return {
        "passed": passed,
        "explanation": explanation,
        "answers": count,
        "equal": equal,
        "smallest_agreement": None if agreement is None else round(agreement, 6),
    }


def _readable(text: str) -> str:
    """Without halves of characters, which an answer may end with: a vLLM leaves them out."""
    return text.replace("\ufffd", "")


def _greedy(evaluation: Path) -> list[answers.Answer]:
    return [one for one in answers.read_answers(evaluation) if not one.sample]
