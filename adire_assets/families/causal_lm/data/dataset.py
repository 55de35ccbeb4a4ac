"""A folder of instruction data becomes a dataset: validated, without duplicates, split in three.

`build_dataset` writes

    train.jsonl          a line per example: messages (role, content; the last is the assistant's),
                         slots, language and source (file:line of the source folder)
    validation.jsonl     the same for the examples that checkpoints and settings are chosen by
    held_out.jsonl       the same for the examples that gates judge by
    summary.json         counts, what was left out and why, statistics by language

and gives the `Summary` of summary.json. Bytes depend on the records, where they stand and the
config alone. A mistake in any record refuses the whole with all mistakes listed; duplicates are
left out and listed. A `UserError` leaves nothing behind.
"""

import codecs
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from adire_assets.core.data_files import (
    TAKEN_DOWN,
    content_files,
    decode_text,
    mistakes,
    new_folder,
    regular_file,
)
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import suffix_of
from adire_assets.core.store import write_json
from adire_assets.core.worker import Progress
from adire_assets.families.causal_lm.config import DataConfig
from adire_assets.families.causal_lm.data.records import Example, Finding, Read, read_records
from adire_assets.families.causal_lm.data.splits import (
    Placed,
    Rejection,
    refuse_too_few,
    same_questions,
    split_examples,
)
from adire_assets.families.causal_lm.identity import identity
from adire_assets.families.causal_lm.languages import language_of

ENDINGS = (".json", ".jsonl", ".ndjson")
UNDETERMINED = "und"  # the BCP 47 tag
MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Summary:
    """The content of summary.json. Files are named as in the source folder."""

    files: dict[str, str]  # those that were read, with their formats
    examples: int
    train: int
    validation: int
    held_out: int
    license: str | None
    # By BCP 47 tag: examples in all and by split, how many say it themselves, characters_mean of
    # their answers.
    languages: dict[str, dict[str, float]]
    slots: int  # facts that answers must repeat
    rejected: list[Rejection]  # duplicates
    same_question: list[list[str]]  # sources that ask the same, with other answers
    personal_data: list[Finding]  # of the kinds that the config allows
    unused: list[str]  # files of other kinds
    marked: list[str]  # files that begin with a byte order mark, which is left out


def build_dataset(
    source: Path,
    output: Path,
    config: DataConfig,
    files: Iterable[str] | None = None,
    progress: Progress | None = None,
    taken_down: Collection[str] = (),
) -> Summary:
    """Build the dataset of `source` in the empty or absent folder `output`.

    `files` are the relative paths to take (default: all below `source`); what is not content
    (`file_names.is_content`) is left out. So are records whose `identity` is in `taken_down`; what
    is a duplicate of one stays rejected for it. UserError: no records, mistakes in them, too few
    examples in all (`config.minimum_examples`), held out or to train on.
    """
    found = content_files(source, files)
    if odd := [ascii(name)[1:-1] for name in found if re.search("[\ud800-\udfff]", name)]:
        raise UserError(f"{source}: {', '.join(odd)}: not a name in UTF-8; rename it")
    named = {name: path for name, path in found.items() if suffix_of(name) in ENDINGS}
    if not named:
        raise UserError(
            f"{source} has no instruction data: put {', '.join(ENDINGS)} files there, then run "
            "`dvc add` on the folder that is tracked"
        )
    read, marked = Read(), []
    for number, (name, path) in enumerate(named.items(), start=1):
        try:
            content = regular_file(path, source).read_bytes()
            text = decode_text(content)
        except ValueError as clause:
            read.problems.append(f"{name}: {clause}")
            continue
        if content.startswith(MARKS):
            marked.append(name)
        read_records(text, name, config, read)
        if progress:
            progress(f"{number} of {len(named)} files read")
    if read.problems:
        raise UserError(mistakes(f"the records in {source} have", read.problems))
    by_split, rejected = split_examples(read.examples, config)
    excluded = {
        (one.file, one.line) for one in read.examples if identity(one.messages) in taken_down
    }
    # Excluded only after the split: what was rejected for their sake would be trained on instead.
    by_split = {
        name: [one for one in split if (one.example.file, one.example.line) not in excluded]
        for name, split in by_split.items()
    }
    rejected = [one for one in rejected if (one.file, one.line) not in excluded]
    rejected += [Rejection(file, line, TAKEN_DOWN) for file, line in excluded]
    rejected.sort(key=lambda item: (item.file, item.line))
    refuse_too_few(source, config, by_split, rejected)
    rows = {name: [_row(one) for one in split] for name, split in by_split.items()}
    summary = Summary(
        files=read.formats,
        examples=sum(map(len, rows.values())),
        **{name: len(split) for name, split in rows.items()},
        license=config.license,
        languages=_languages(by_split, rows),
        slots=sum(len(row["slots"]) for split in rows.values() for row in split),
        rejected=rejected,
        same_question=[group for split in by_split.values() for group in same_questions(split)],
        personal_data=read.personal_data,
        unused=[name for name in found if name not in named],
        marked=marked,
    )
    with new_folder(output):
        for name, split in rows.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in split)
            (output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        write_json(output / "summary.json", asdict(summary))
    return summary


def build(
    *,
    source: str | Path,
    output: str | Path,
    config: Mapping[str, Any],
    files: Iterable[str] | None = None,
    progress: Progress | None = None,
    taken_down: Collection[str] = (),
) -> dict[str, Any]:
    """`build_dataset` with plain values, as the line and a worker call it."""
    settings = DataConfig.model_validate(config)
    found = build_dataset(Path(source), Path(output), settings, files, progress, taken_down)
    return asdict(found)


def _row(placed: Placed) -> dict[str, Any]:
    example = placed.example
    return {
        "messages": [{"role": role, "content": text} for role, text in example.messages],
        "slots": example.slots,
        "language": example.language or _language_of(example),
        "source": example.source,
    }


def _language_of(example: Example) -> str:
    """That of the answer; of one that is too short to tell, with the question."""
    for text in (example.answer, f"{example.question}\n{example.answer}"):
        if (told := language_of(text)).islower():  # and no name of a script
            return told
    return UNDETERMINED


def _languages(
    by_split: Mapping[str, list[Placed]], rows: Mapping[str, list[dict[str, Any]]]
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[Example]]] = {}
    for name, split in rows.items():
        for placed, row in zip(by_split[name], split, strict=True):
            language = found.setdefault(row["language"], {one: [] for one in rows})
            language[name].append(placed.example)
    return {
        language: {
            "examples": len(together := [one for split in splits.values() for one in split]),
            **{name: len(split) for name, split in splits.items()},
            "said": sum(one.language is not None for one in together),
            "answer_characters_mean": round(fmean(len(one.answer) for one in together), 1),
        }
        for language, splits in sorted(found.items())
    }
