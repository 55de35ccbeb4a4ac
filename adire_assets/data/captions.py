"""Captions of a folder of images, from the files that users keep beside them.

In this order: `metadata.csv` or `metadata.jsonl` (the Hugging Face imagefolder convention: columns
`file_name` and `text`, paths relative to the file's own folder), a side-car `<name>.txt`. An image
that none of them names has no entry here. One `UserError` lists every mistake of every file.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import Any

from adire_assets.errors import UserError

METADATA = ("metadata.csv", "metadata.jsonl")
REQUIRED = ("file_name", "text")
SHOWN_PROBLEMS = 100


@dataclass(frozen=True)
class Captions:
    """`texts` maps an image's path to its caption; `used` are the files that captions came from."""

    texts: dict[str, str]
    used: frozenset[str]


def read_captions(source: Path, files: Iterable[str]) -> Captions:
    """The captions below `source` of `files` (relative paths, the folder's visible content).

    White space inside a caption counts as one space. UserError, one line per problem with file and
    line, when a caption file is unreadable, lacks a column, has an empty caption, or names a file
    that is missing, outside its folder or named twice.
    """
    present = set(files)
    texts: dict[str, str] = {}
    where: dict[str, str] = {}
    problems: list[str] = []
    metadata = sorted(name for name in present if name.rpartition("/")[2] in METADATA)
    for name in metadata:
        folder = name.rpartition("/")[0]
        twin = f"{folder}/{METADATA[1]}".lstrip("/")
        if name.endswith(METADATA[0]) and twin in present:
            problems.append(f"{name}: {twin} stands beside it; keep one of the two")
        reader = _csv_rows if name.endswith(".csv") else _json_rows
        for line, row in _rows(reader, source / name, name, problems):
            place = f"{name}:{line}"
            image, text = _entry(row, folder, place, problems)
            if image is None or text is None:
                continue
            if image not in present:
                problems.append(f"{place}: names {image}, which is not there")
            elif image in where:
                problems.append(f"{place}: {image} has a caption already ({where[image]})")
            else:
                texts[image], where[image] = text, place
    used = {*metadata}
    for name, sidecar in _sidecars(present):
        used.add(sidecar)
        if name in texts:
            continue
        text = _clean(_read(source / sidecar, sidecar, problems))
        if text:
            texts[name] = text
        elif text is not None:
            problems.append(f"{sidecar}: the caption is empty")
    if problems:
        raise UserError(_listed(source, problems))
    return Captions(texts, frozenset(used))


def _entry(
    row: dict[str, Any], folder: str, place: str, problems: list[str]
) -> tuple[str | None, str | None]:
    """(image, caption) of one row; None for what is wrong with it, noted in `problems`."""
    name, text = (row.get(key) for key in REQUIRED)
    image = None
    for key in REQUIRED:
        if not isinstance(row.get(key), str):
            problems.append(f"{place}: {key} is missing or not text")
    if isinstance(name, str):
        inner = normpath(name) if name.strip() else ""
        if not inner:
            problems.append(f"{place}: file_name is empty")
        elif inner.startswith("/") or inner.split("/")[0] == "..":
            problems.append(f"{place}: {name} is outside the folder of the caption file")
        else:
            image = f"{folder}/{inner}".lstrip("/")
    caption = _clean(text) if isinstance(text, str) else None
    if caption == "":
        problems.append(f"{place}: the caption of {name} is empty")
        caption = None
    return image, caption


def _clean(text: str | None) -> str | None:
    return None if text is None else " ".join(text.split())


def _sidecars(present: set[str]) -> Iterator[tuple[str, str]]:
    """(image, side-car) pairs, sorted: files that share their path but for the ending .txt."""
    for name in sorted(present):
        stem, dot, ending = name.rpartition(".")
        sidecar = f"{stem}.txt"
        if not dot or ending == "txt" or "/" in ending or name.rpartition("/")[2] in METADATA:
            continue
        if sidecar in present:
            yield name, sidecar


def _read(path: Path, name: str, problems: list[str]) -> str | None:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel begins its UTF-8 with a mark
    except UnicodeDecodeError as error:
        problems.append(f"{name}: not UTF-8 text (byte {error.start}); save it as UTF-8")
        return None
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror})")
        return None
    return text


def _rows(
    reader: Any, path: Path, name: str, problems: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _read(path, name, problems)
    if text is not None:
        yield from reader(text, name, problems)


def _csv_rows(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if not columns:
                columns = [value.strip() for value in values]
                lacking = [key for key in REQUIRED if key not in columns]
                if lacking:
                    problems.append(
                        f"{name}:{reader.line_num}: no column {' and no column '.join(lacking)}; "
                        f"the first line has to name {','.join(REQUIRED)}"
                    )
                    return
                continue
            if len(values) != len(columns):
                problems.append(
                    f"{name}:{reader.line_num}: {len(values)} fields where the first line has "
                    f'{len(columns)}; a caption with a comma stands between double quotes ("...")'
                )
                continue
            yield reader.line_num, dict(zip(columns, values, strict=True))
    except csv.Error as error:
        problems.append(f"{name}:{reader.line_num}: not valid CSV: {error}")
        return
    if not columns:
        problems.append(f"{name}: is empty; its first line has to be {','.join(REQUIRED)}")


def _json_rows(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = 0
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        rows += 1
        try:
            row = json.loads(content)
            json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            problems.append(f"{name}:{line}: not a line of valid JSON: {error}")
            continue
        if not isinstance(row, dict):
            problems.append(f"{name}:{line}: an object with {' and '.join(REQUIRED)} is expected")
            continue
        yield line, row
    if not rows:
        problems.append(f"{name}: is empty; a line holds an object with {' and '.join(REQUIRED)}")


def _listed(source: Path, problems: list[str]) -> str:
    more = len(problems) - SHOWN_PROBLEMS
    lines = problems[:SHOWN_PROBLEMS] + ([f"... and {more} more"] if more > 0 else [])
    return "\n".join([f"the captions in {source} have {len(problems)} mistakes:", *lines])
