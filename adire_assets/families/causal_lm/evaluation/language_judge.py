"""A language model as judge, asked at an address with OpenAI's interface.

Each answer is graded by itself, beside its reference where there is one, with temperature 0. The
judge may think aloud: the last number from 1 to 10 that it writes is the grade. Contract: `grader`
asks nothing yet; the function that it gives raises UserError for an address that does not answer
and for a judge that gives no grade. The address' key, if it wants one, is the value of the
environment variable ADIRE_JUDGE_KEY, and stands in no file.

Source: single answer grading of Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and
Chatbot Arena" (arXiv:2306.05685).
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from adire_assets.core.errors import UserError
from adire_assets.families.causal_lm.evaluation.answers import Answer

KEY = "ADIRE_JUDGE_KEY"
LOWEST, HIGHEST = 1, 10
TRIES = 4  # of a request that a busy server turns away, 1, 2 and 4 seconds apart
BUSY = (429, 500, 502, 503, 504)
LONGEST = 1024  # tokens of what the judge writes

Grader = Callable[[Sequence[Answer]], list[float]]


def grader(judge: Mapping[str, Any]) -> Grader:
    """The function that gives each answer its grade, 0 (worst) to 1; `judge` is the section
    evaluation.judge."""

    def grade(answers: Sequence[Answer]) -> list[float]:
        with _session() as session, ThreadPoolExecutor(judge["parallel_requests"]) as pool:
            return list(pool.map(lambda one: _grade(session, judge, one), answers))

    return grade


def _session() -> Any:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retries = Retry(TRIES - 1, status_forcelist=BUSY, backoff_factor=1, allowed_methods=None)
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    if key := os.environ.get(KEY):
        session.headers["Authorization"] = f"Bearer {key}"
    return session


def _grade(session: Any, judge: Mapping[str, Any], answer: Answer) -> float:
    import requests

    address = f"{judge['endpoint'].rstrip('/')}/chat/completions"
    body = {
        "model": judge["model"],
        "messages": [
            {"role": "system", "content": judge["instruction"]},
            {"role": "user", "content": _question(answer)},
        ],
        "temperature": 0,
        "max_tokens": LONGEST,
    }
    try:
        response = session.post(address, json=body, timeout=judge["timeout_seconds"])
        response.raise_for_status()
        said = response.json()["choices"][0]["message"]["content"] or ""
    except (requests.RequestException, LookupError, TypeError) as error:
        hint = f"; set {KEY}" if getattr(error, "response", None) is not None else ""
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"evaluation.judge: {address} gave no answer of {judge['model']} ({reason}){hint}, "
            "correct the address or model, or leave evaluation.judge out"
        ) from None
    numbers = re.findall(r"(?<![\d.])(?:10|[1-9])(?!\.?\d)", said)
    if not numbers:
        raise UserError(
            f"evaluation.judge: {judge['model']} wrote {said[-80:]!r} and no grade from {LOWEST} "
            f"to {HIGHEST}; ask for one in evaluation.judge.instruction, or take another model"
        )
    return (int(numbers[-1]) - LOWEST) / (HIGHEST - LOWEST)


def _question(answer: Answer) -> str:
    told = [f"Question:\n{answer.question}"]
    if answer.reference is not None:
        told.append(f"Reference answer:\n{answer.reference}")
    return "\n\n".join([*told, f"Answer to grade:\n{answer.text}"])
