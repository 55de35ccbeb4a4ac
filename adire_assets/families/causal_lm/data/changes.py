"""A change of a model's records before it is kept: what the dataset step would say of each.

The plug `data` (see `core.family`). A record that is taken stands on a line of its own in the
draft's file, that in which it began; one that is not leaves a blank line there and is told.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adire_assets.core.data_files import SHOWN_PROBLEMS, TAKEN_DOWN, content_files, decode_text
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import suffix_of
from adire_assets.core.files import write_bytes
from adire_assets.core.worker import Progress

TAKES = "instruction files (JSONL or JSON: alpaca, chat messages or ShareGPT)"
ENDINGS = (".json", ".jsonl", ".ndjson")
TEXT = ""
SHOWN_TEXT = 100  # characters of a record


def is_item(name: str) -> bool:
    """Every file holds records."""
    return True


def judge(
    *,
    source: str,
    files: Mapping[str, str],
    draft: str,
    added: Sequence[str],
    config: Mapping[str, Any],
    taken_down: Sequence[str],
    memory: str,
    pictures: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What the dataset step says of each record in the files `added` of the folder `draft`, beside
    `files` in the folder `source`.

    The keys are those of a family's `data.judge` (see families/diffusion/data/changes.py, whose
    pictures and texts there are none of here); a file whose records are refused is rewritten
    with blank lines for them, so that a record keeps the number of its line.
    """
    from adire_assets.families.causal_lm.config import DataConfig
    from adire_assets.families.causal_lm.data.records import Read
    from adire_assets.families.causal_lm.data.splits import refuse_too_few, split_examples
    from adire_assets.families.causal_lm.identity import identity

    settings = DataConfig.model_validate(config)
    there = Read()
    for name, path in content_files(Path(source), files).items():
        if suffix_of(name) in ENDINGS:
            _read(path, name, settings, there)
    refused: list[tuple[str, str]] = []
    new, values = Read(), {}
    for name in added:
        read = Read()
        values[name] = _read(Path(draft) / name, name, settings, read)
        new.examples += read.examples
        shown = read.problems[:SHOWN_PROBLEMS]
        refused += [_placed(problem, name) for problem in shown]
        if more := len(read.problems) - len(shown):
            refused.append((name, f"{more} more of its records have mistakes"))
    left_out = {}
    for one in new.examples:
        if identity(one.messages) in taken_down:
            left_out[one.source] = TAKEN_DOWN
    kept = [one for one in new.examples if one.source not in left_out]
    _, before = split_examples(there.examples, settings)
    by_split, after = split_examples([*there.examples, *kept], settings)
    sources = {one.source for one in kept}
    known = {f"{one.file}:{one.line}" for one in before}
    consequences = []
    for rejection in after:
        place = f"{rejection.file}:{rejection.line}"
        if place in sources:
            left_out[place] = rejection.reason
        elif place not in known:
            consequences.append(f"{place} is left out from now on: {rejection.reason}")
    refused += left_out.items()
    whole = ""
    try:
        refuse_too_few(Path(settings.path), settings, by_split, [])
    except UserError as error:
        whole = str(error)
    if there.problems:
        whole = "\n".join(there.problems[:SHOWN_PROBLEMS])
    items = []
    for name in added:
        accepted = [one for one in kept if one.file == name and one.source not in left_out]
        lines = {one.line: one for one in accepted}
        rows = {line: json.dumps(value, ensure_ascii=False) for line, value in values[name]}
        rows = {line: row for line, row in rows.items() if line in lines}
        text = "".join(f"{rows.get(n, '')}\n" for n in range(1, max(rows, default=0) + 1))
        write_bytes(Path(draft) / name, text.encode())
        for line in rows:
            said = " ".join(lines[line].question.split())
            begins = said if len(said) <= SHOWN_TEXT else f"{said[:SHOWN_TEXT]}..."
            items.append({"file": name, "line": line, "text": begins, "note": "", "picture": ""})
    return {
        "items": items,
        "refused": refused,
        "texts": {},
        "consequences": consequences,
        "whole": whole,
    }


def _read(path: Path, name: str, settings: Any, read: Any) -> list[tuple[int, Any]]:
    """(line, value) of what stands alone in its line; `read` gets examples and problems."""
    from adire_assets.families.causal_lm.data.json_values import json_values
    from adire_assets.families.causal_lm.data.records import read_records

    try:
        text = decode_text(path.read_bytes())
    except ValueError as clause:
        read.problems.append(f"{name}: {clause}")
        return []
    read_records(text, name, settings, read)
    found = list(json_values(text, name, []))
    lines = [line for line, _ in found]
    if len({*lines}) < len(lines):
        read.examples.clear()
        read.problems.append(f"{name}: several records stand in one line; give each its own")
        return []
    return found


def _placed(problem: str, name: str) -> tuple[str, str]:
    """(FILE or FILE:LINE, sentence) of a problem that begins with them."""
    line, colon, said = problem.removeprefix(f"{name}:").partition(":")
    if colon and line.isdecimal():
        return f"{name}:{line}", said.strip()
    return name, problem.removeprefix(f"{name}:").strip()


def texts(source: Path, files: Iterable[str]) -> dict[str, str]:
    """Files of records have no texts of their own."""
    return {}


def lay_down(
    *,
    source: Path,
    files: Iterable[str],
    draft: Path,
    items: Iterable[Mapping[str, Any]],
    texts: Mapping[str, str],
    removed: Iterable[str],
    output: Path,
) -> dict[str, Path | None]:
    """What changes in the folder: {name: its new content, None when it goes}.

    Files of records come beside the others, with the lines of `items` alone.
    """
    lines: dict[str, set[int]] = {}
    for one in items:
        lines.setdefault(one["file"], set()).add(one["line"])
    changes: dict[str, Path | None] = dict.fromkeys(removed)
    for number, (name, wanted) in enumerate(sorted(lines.items())):
        rows = (draft / name).read_text(encoding="utf-8").split("\n")
        text = "".join(f"{row}\n" for line, row in enumerate(rows, start=1) if line in wanted)
        changes[name] = output / f"{number}.jsonl"
        write_bytes(output / f"{number}.jsonl", text.encode())
    return changes
