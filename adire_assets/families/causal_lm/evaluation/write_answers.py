"""The answers that an evaluation looks at: written once for an adapter and once for its bare base.

Contract: `write` is called in a worker child and writes into the empty folder `output`

    answers.jsonl   a line per question and sample, question by question (see `answers.Answer`)
    problems.json   why the adapter is not sound and nothing was written; else []
    timings.json    latency, throughput, memory and loading time; does not count as content

The first answers are written one by one, all others in batches of BATCH. It knows no metric, so
that a changed metric writes nothing anew.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adire_assets.core.store import write_bytes, write_json
from adire_assets.core.worker import Progress
from adire_assets.families.causal_lm.adapter_files import problems_of
from adire_assets.families.causal_lm.evaluation.answers import FILE
from adire_assets.families.causal_lm.generation import Request, Writer, Written

BATCH = 8  # answers per forward pass, once latency is known

Asked = tuple[Mapping[str, Any], int, Request]  # question, sample, request


def write(
    *,
    base: str,
    adapter: str | None,
    drawing: dict[str, Any],
    output: str,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Answer every question greedily and `samples` times drawn; returns
    {"answers": how many, "problems": problems.json} and timings.json."""
    folder = Path(output)
    problems = problems_of(Path(adapter), Path(base)) if adapter else []
    rows: list[dict[str, Any]] = []
    timings: dict[str, Any] = {}
    if problems:
        progress(f"evaluation: the adapter is not sound, nothing is asked: {problems[0]}")
    else:
        rows, timings = _write(base, adapter, drawing, device, progress)
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    write_bytes(folder / FILE, lines.encode())
    write_json(folder / "problems.json", problems)
    write_json(folder / "timings.json", timings)
    return {"answers": len(rows), "problems": problems, **timings}


def measure(
    *,
    base: str,
    adapter: str | None,
    drawing: dict[str, Any],
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """timings.json of `write`, measured again on as many answers as that takes."""
    timed = drawing["latency_answers"] + 1 + BATCH
    return _write(base, adapter, drawing, device, progress, only_first=timed)[1]


def requests(drawing: Mapping[str, Any]) -> list[Asked]:
    """Question by question; sample 0 is greedy. No two questions share a seed."""
    return [
        (
            question,
            sample,
            Request(
                question["messages"],
                drawing["max_tokens"],
                drawing["temperature"] if sample else 0.0,
                drawing["top_p"] if sample else 1.0,
                number * (drawing["samples"] + 1) + sample if sample else None,
            ),
        )
        for number, question in enumerate(drawing["questions"])
        for sample in range(drawing["samples"] + 1)
    ]


def _write(
    base: str,
    adapter: str | None,
    drawing: Mapping[str, Any],
    device: str,
    progress: Progress,
    only_first: int | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the rows of answers.jsonl, timings.json)."""
    started = time.perf_counter()
    writer = Writer(Path(base), Path(adapter) if adapter else None, device)
    loading = round(time.perf_counter() - started, 4)
    asked = requests(drawing)[:only_first]
    of_what = "with the LoRA" if writer.has_adapter else "of the bare base"
    answers: list[Written] = []
    seconds: dict[int, list[float]] = {}
    while len(answers) < len(asked):
        size = 1 if len(answers) <= drawing["latency_answers"] else BATCH
        batch = asked[len(answers) : len(answers) + size]
        began = time.perf_counter()
        answers += writer.answer([request for _, _, request in batch])
        seconds.setdefault(len(batch), []).append(time.perf_counter() - began)
        progress(f"evaluation: {len(answers)} of {len(asked)} answers {of_what}")
    timings = {"cold_load_seconds": loading, **_timings(writer, answers, seconds)}
    if only_first is not None:
        return [], timings
    losses: dict[int, tuple[float | None, int]] = {
        id(question): writer.loss(question["messages"], question["reference"])
        if question["reference"] is not None
        else (None, 0)
        for question in drawing["questions"]
    }
    pairs = zip(asked, answers, strict=True)
    return [_row(writer, one, written, *losses[id(one[0])]) for one, written in pairs], timings


def _row(
    writer: Writer, asked: Asked, written: Written, loss: float | None, reference_tokens: int
) -> dict[str, Any]:
    question, sample, request = asked
    return {
        "prompt": question["messages"][-1]["content"],
        "messages": question["messages"],
        "sample": sample,
        "seed": request.seed,
        "text": written.text,
        "reference": question["reference"],
        "slots": question["slots"],
        "language": question["language"],
        "kind": question["kind"],
        "finish_reason": written.finish_reason,
        "tokens": written.tokens,
        "loss": loss,
        "reference_tokens": reference_tokens,
        "question_tokens": writer.question_tokens(question["messages"]),
    }


def _timings(
    writer: Writer, answers: Sequence[Written], seconds: Mapping[int, list[float]]
) -> dict[str, Any]:
    """Percentiles interpolate linearly; the first answer, which warms up, stands alone."""
    first, *single = seconds[1]
    single = single or [first]
    alone = answers[1 : 1 + len(single)] or answers[:1]
    curve = []
    for size in sorted({1, BATCH} & set(seconds)):
        middle, slow = np.percentile(single if size == 1 else seconds[size], [50, 95])
        curve.append(
            {
                "batch_size": size,
                "answers_per_second": round(size / float(middle), 4),
                "seconds_per_answer_p50": round(float(middle) / size, 4),
                "seconds_per_answer_p95": round(float(slow) / size, 4),
            }
        )
    return {
        "first_answer_seconds": round(first, 4),
        "seconds_per_answer_mean": round(float(np.mean(single)), 4),
        "seconds_per_answer_p50": round(float(np.percentile(single, 50)), 4),
        "seconds_per_answer_p95": round(float(np.percentile(single, 95)), 4),
        "seconds_per_answer": [round(item, 4) for item in single],
        "tokens_per_second": round(sum(one.tokens for one in alone) / sum(single), 2),
        "first_token_seconds_p50": round(
            float(np.percentile([one.first_token_seconds for one in alone], 50)), 4
        ),
        "by_batch_size": curve,
        "answers_per_second_maximum": max(point["answers_per_second"] for point in curve),
        "peak_memory_bytes": _peak_memory(writer.device),
        "device": writer.device,
        "threads": torch.get_num_threads(),
    }


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
