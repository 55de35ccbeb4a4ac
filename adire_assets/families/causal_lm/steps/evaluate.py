"""The scoring step: one adapter's answers, beside the bare base's, in numbers.

Contract: `score` is called in a worker child, asks no model, and writes into the empty folder
`output`

    report.json     scores, problems and one entry per answer; equal software gives equal bytes
    statistics.*    each metric of the adapter's answers; base/statistics.* of the base's
    timings.json    those of the adapter's answers; does not count as content
    report.md       for people's eyes
    answers.jsonl, base/answers.jsonl    the answers
    asked.json      how they were asked for
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from adire_assets.core.statistic import save_statistics
from adire_assets.core.store import hard_link_or_copy, read_json, write_json
from adire_assets.core.worker import Progress
from adire_assets.families.causal_lm.artifacts import ASKED, WORDS
from adire_assets.families.causal_lm.evaluation.answers import (
    FILE,
    read_answers,
    train_texts_and_slots,
)
from adire_assets.families.causal_lm.evaluation.drawing import SETTINGS
from adire_assets.families.causal_lm.evaluation.language_judge import grader
from adire_assets.families.causal_lm.evaluation.metric_inputs import MetricInputs
from adire_assets.families.causal_lm.evaluation.metrics.toxicity import word_list
from adire_assets.families.causal_lm.evaluation.report import markdown
from adire_assets.families.causal_lm.evaluation.scores import measure, scored


def score(
    *,
    dataset: str,
    adapter_images: str,
    base_images: str,
    judge: str,
    evaluation: dict[str, Any],
    output: str,
    device: str,
    progress: Progress,
    base_statistics: str | None = None,
) -> dict[str, Any]:
    """Score what `write_answers.write` wrote with the LoRA and without; the first four are folders,
    `evaluation` is `config.EvaluationConfig.settings`. Returns report.json without its answers, and
    timings.json. UserError when the two sides were asked other questions."""
    progress("evaluation: scoring")
    folder = Path(output)
    texts, slots = train_texts_and_slots(Path(dataset))
    words = json.loads((Path(judge) / WORDS).read_text(encoding="utf-8"))
    shared = MetricInputs(
        (),
        train=texts,
        train_slots=slots,
        refusals=tuple(evaluation["refusal_patterns"]),
        toxicity=word_list(words) if words else None,
        judge=grader(evaluation["judge"]) if evaluation["judge"] else None,
    )
    problems = read_json(Path(adapter_images) / "problems.json")
    bare = tuple(read_answers(Path(base_images)))
    own = tuple(read_answers(Path(adapter_images))) if not problems else ()
    sides = {
        "adapter": replace(shared, answers=own, base=bare if own else ()),
        "base": replace(shared, answers=bare if own else (), base=bare if own else ()),
    }
    statistics = {name: measure(inputs) for name, inputs in sides.items()}
    report = {
        **scored(sides["adapter"], sides["base"], statistics),
        "adapter_problems": problems,
    }
    for place, name, answers in (
        (folder, "adapter", adapter_images),
        (folder / "base", "base", base_images),
    ):
        place.mkdir(exist_ok=True)
        # Of no answers there is no metric: a comparison then says that this side has no value.
        save_statistics(place, statistics[name] if own else {})
        hard_link_or_copy(Path(answers) / FILE, place / FILE)
    write_json(folder / "report.json", report)
    write_json(folder / ASKED, {name: evaluation[name] for name in SETTINGS})
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    timings = read_json(Path(adapter_images) / "timings.json")
    write_json(folder / "timings.json", timings)
    return {**{key: item for key, item in report.items() if key != "per_answer"}, **timings}
