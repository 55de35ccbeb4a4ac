"""Captions of a folder of images, from the files that users keep beside them.

In this order: `metadata.csv` or `metadata.jsonl` (the Hugging Face imagefolder convention: columns
`file_name` and `text`, paths relative to the file's own folder), a side-car `<name>.txt` or
`<name>.caption`. Case does not matter in these names' endings, nor how accents are coded. An image
that none of them names has no entry here. One `UserError` lists every mistake of every file; a
file that looks like captions and is not read is told in `unused`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import Any

from adire_assets.core.data_files import decode_text, each_key_once, mistakes
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import is_content, same_form, suffix_of
from adire_assets.families.diffusion.data.tables import csv_rows

METADATA = ("metadata.csv", "metadata.jsonl")
SIDECARS = (".txt", ".caption")
REQUIRED = ("file_name", "text")
# Endings of files in which other programs keep captions, beside those that are read.
NEAR_MISSES = (
    *(".captions", ".tags", ".tag", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".xls"),
    *(".ods", ".parquet", ".xml", ".yaml", ".yml", ".text"),
)
READ = "captions are read from metadata.csv or metadata.jsonl, <image>.txt and <image>.caption"


@dataclass(frozen=True)
class Captions:
    """`texts` maps an image's path to its caption; `used` are the files that captions came from;
    `unused` maps a file that looks like captions to why it is not read."""

    texts: dict[str, str]
    used: frozenset[str]
    unused: dict[str, str]


def read_captions(source: Path, files: Mapping[str, Path]) -> Captions:
    """The captions below `source` of `files`: {path relative to it, in composed form: file}.

    White space inside a caption counts as one space. UserError, one line per problem with file and
    line, when a caption file is unreadable, lacks a column, has an empty caption, or names a file
    that is missing, outside its folder or named twice; when two files of one folder say captions.
    """
    texts: dict[str, str] = {}
    where: dict[str, str] = {}
    problems: list[str] = []
    metadata = sorted(name for name in files if _base(name).casefold() in METADATA)
    folders: dict[str, str] = {}
    for name in metadata:
        folder = name.rpartition("/")[0]
        if folders.setdefault(folder, name) != name:
            problems.append(f"{name}: {folders[folder]} stands beside it; keep one of the two")
        text = _read(files[name], name, problems)
        reader = csv_rows if suffix_of(name) == ".csv" else json_rows
        for line, row in reader(text, name, problems, REQUIRED) if text is not None else ():
            place = f"{name}:{line}"
            image, caption = _entry(row, folder, place, files, problems)
            if image is None or caption is None:
                continue
            if image in where:
                problems.append(f"{place}: {image} has a caption already ({where[image]})")
            else:
                texts[image], where[image] = caption, place
    used = {*metadata}
    unused: dict[str, str] = {}
    for image, sidecars in _sidecars(files).items():
        if image in where:
            unused |= dict.fromkeys(sidecars, f"{where[image]} has the caption of {image}")
            continue
        used |= {*sidecars}
        said = {name: _clean(_read(files[name], name, problems)) for name in sidecars}
        problems += [f"{name}: the caption is empty" for name, text in said.items() if text == ""]
        found = {text for text in said.values() if text}
        if len(found) > 1:
            problems.append(f"{' and '.join(sidecars)}: two captions of {image}; keep one of them")
        elif found:
            texts[image] = found.pop()
    if problems:
        raise UserError(mistakes(f"the captions in {source} have", problems))
    for name in files.keys() - used - unused.keys():
        if suffix_of(name) in SIDECARS:
            unused[name] = f"no image has its name; {READ}"
        elif suffix_of(name) in NEAR_MISSES:
            unused[name] = f"not read; {READ}"
    return Captions(texts, frozenset(used), unused)


def _entry(
    row: dict[str, Any],
    folder: str,
    place: str,
    files: Mapping[str, Path],
    problems: list[str],
) -> tuple[str | None, str | None]:
    """(image, caption) of one row; None for what is wrong with it, noted in `problems`."""
    name, text = (row.get(key) for key in REQUIRED)
    image = None
    for key in REQUIRED:
        if not isinstance(row.get(key), str):
            problems.append(f"{place}: {key} is missing or not text")
    if isinstance(name, str):
        image, problem = _named(name, folder, files)
        if problem:
            problems.append(f"{place}: {problem}")
    caption = _clean(text) if isinstance(text, str) else None
    if caption == "":
        problems.append(f"{place}: the caption of {name} is empty")
        caption = None
    return image, caption


def _named(name: str, folder: str, files: Mapping[str, Path]) -> tuple[str | None, str | None]:
    """(the file that a caption file in `folder` means by `name`, None) or (None, what is wrong)."""
    paths = []
    for spelling in (name, name.strip(), name.strip().replace("\\", "/")):  # Windows writes \
        inner = normpath(same_form(spelling)) if spelling.strip() else ""
        if not inner:
            return None, "file_name is empty"
        if inner.startswith("/") or inner.split("/")[0] == "..":
            return None, f"{name} is outside the folder of the caption file"
        path = f"{folder}/{inner}".lstrip("/")
        if path in files:
            return path, None
        paths.append(path)
    if not is_content(path):
        return None, f"names {name}, which does not count: it is hidden or a program's leftover"
    close = [one for one in files if one.casefold() == path.casefold()]
    return None, f"names {paths[0]}, which is not there" + (f", but {close[0]} is" if close else "")


def _clean(text: str | None) -> str | None:
    return None if text is None else same_form(" ".join(text.split()))


def _sidecars(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """{image: its side-cars}: files that share its path but for the ending, or add one to it."""
    found: dict[str, list[str]] = {}
    for name in sorted(files):
        if suffix_of(name) in SIDECARS and _base(name).casefold() not in METADATA:
            found.setdefault(name.rpartition(".")[0], []).append(name)
    result = {}
    for name in sorted(files):
        if suffix_of(name) in (*SIDECARS, *NEAR_MISSES):
            continue
        stem = name.rpartition(".")[0] if suffix_of(name) else name
        sidecars = [one for key in dict.fromkeys((stem, name)) for one in found.get(key, [])]
        if sidecars:
            result[name] = sidecars
    return result


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _read(path: Path, name: str, problems: list[str]) -> str | None:
    try:
        return decode_text(path.read_bytes())
    except ValueError as error:
        problems.append(f"{name}: {error}")
    except OSError as error:
        problems.append(f"{name}: cannot be read ({error.strerror})")
    return None


def json_rows(
    text: str, name: str, problems: list[str], required: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a file of JSON lines."""
    rows = 0
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        rows += 1
        try:
            row = json.loads(content, object_pairs_hook=each_key_once)
            json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            problems.append(f"{name}:{line}: not a line of valid JSON: {error}")
            continue
        if not isinstance(row, dict):
            problems.append(f"{name}:{line}: an object with {' and '.join(required)} is expected")
            continue
        yield line, row
    if not rows:
        problems.append(f"{name}: is empty; a line holds an object with {' and '.join(required)}")
