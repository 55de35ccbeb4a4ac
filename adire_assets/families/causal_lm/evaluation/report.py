"""An evaluation for people's eyes: report.md.

Contract: it shows what was measured and pronounces no verdict, because thresholds may change while
the evaluation stays. Equal input gives equal bytes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

ANSWERS = 6  # shown in full
CHARACTERS = 2_000  # of a text that is shown


def markdown(report: Mapping[str, Any]) -> str:
    """report.md from the content of report.json, see `scores.scored`, which also names under
    `adapter_problems` what is wrong with the adapter, if anything is."""
    lines = ["# Evaluation", ""]
    if problems := report["adapter_problems"]:
        lines += ["**The adapter is not sound:**", "", *(f"- {item}" for item in problems), ""]
    lines += [
        f"{report['answers']} answers to {report['prompts']} prompts, each with and without the "
        "LoRA. ± is the standard error over prompts.",
        "",
        "| metric | with the LoRA | without |",
        "|---|---|---|",
        *(_line(name, report) for name in report["metrics"]),
    ]
    if languages := report["by_language"]:
        lines += [
            "",
            "## By language",
            "",
            "With the LoRA / without; in brackets the number of answers.",
            "",
            _row("metric", *(f"{_cell(one)} ({of['answers']})" for one, of in languages.items())),
            "|---" * (len(languages) + 1) + "|",
            *(
                _row(name, *(_pair(name, of) for of in languages.values()))
                for name in report["metrics"]
            ),
        ]
    lines += ["", "## What the scores are", ""]
    lines += [f"- `{name}`: {metric['unit']}" for name, metric in report["metrics"].items()]
    lines += ["", "Tokens a second, the time to the first token and memory stand in timings.json."]
    for number, entry in enumerate(_spread(report["per_answer"]), 1):
        lines += ["", f"## Answer {number}", ""]
        scores = (f"{key} {_number(entry[key])}" for key in ("rouge_l_char", "slot_f1"))
        lines += [f"{_cell(entry['language']) or 'unknown language'}; {', '.join(scores)}"]
        for title, key in (
            ("Question", "prompt"),
            ("With the LoRA", "text"),
            ("Without", "base_text"),
            ("Reference", "reference"),
        ):
            if entry[key] is not None:
                lines += ["", f"{title}:", "", _quoted(entry[key])]
    return "\n".join(lines) + "\n"


def _spread(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most ANSWERS greedy answers, evenly spread over each language in turn."""
    greedy = [one for one in entries if one["sample"] == 0]
    greedy.sort(key=lambda one: one["language"])
    count = min(ANSWERS, len(greedy))
    return [greedy[(2 * place + 1) * len(greedy) // (2 * count)] for place in range(count)]


def _line(name: str, report: Mapping[str, Any]) -> str:
    error = report["standard_errors"][name]
    value = _number(report["scores"][name]) + (f" ± {_number(error)}" if error is not None else "")
    title = f"{name}, {report['metrics'][name]['better']} is better"
    return _row(title, value, _number(report["base_scores"][name]))


def _pair(name: str, of: Mapping[str, Any]) -> str:
    return f"{_number(of['scores'][name])} / {_number(of['base_scores'][name])}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    """Three digits behind the point, or "none"."""
    return "none" if value is None else f"{value:.3f}"


def _quoted(text: str) -> str:
    """A text that a page shows letter by letter, whatever marks are in it."""
    if len(text) > CHARACTERS:
        text = f"{text[:CHARACTERS]} ..."
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
