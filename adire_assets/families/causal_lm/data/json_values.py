"""The values of a JSON or JSONL file, each with the line where it begins."""

import json
import re
from collections.abc import Iterator
from typing import Any

from adire_assets.core.data_files import each_key_once

GAP = re.compile(r"[ \t\r\n]*")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


DECODER = json.JSONDecoder(object_pairs_hook=each_key_once, parse_constant=_no_number)


def json_values(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, Any]]:
    """(line, value) of the elements of one list, or of the lines of the file.

    What is not JSON is noted in `problems`, every line of a JSONL file for itself, and the first
    of a list, whose rest cannot be read.
    """
    if text[GAP.match(text).end() :].startswith("["):  # type: ignore[union-attr]
        return _of_list(text, name, problems)
    try:
        value, end = DECODER.raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return _of_lines(text, name, problems)
    if "\n" in text.lstrip()[:end]:  # one object over several lines
        start = len(text) - len(text.lstrip())
        return iter([(text.count("\n", 0, start) + 1, value)])
    return _of_lines(text, name, problems)


def _of_lines(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            yield line, DECODER.decode(content)
        except (ValueError, RecursionError) as error:
            problems.append(f"{name}:{line}: not valid JSON: {_reason(error)}")


def _of_list(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, Any]]:
    position, counted, line = _after_gap(text, text.index("[") + 1), 0, 1
    while not text.startswith("]", position):
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            place = error.lineno if isinstance(error, json.JSONDecodeError) else line
            problems.append(
                f"{name}:{place}: not valid JSON: {_reason(error)}; what follows is not read"
            )
            return
        yield line, value
        position = _after_gap(text, position)
        if text.startswith(",", position):
            position = _after_gap(text, position + 1)
        elif not text.startswith("]", position):
            place = text.count("\n", 0, position) + 1
            problems.append(
                f"{name}:{place}: not valid JSON: a comma or ] is expected after the record of "
                f"line {line}; what follows is not read"
            )
            return
    if rest := text[position + 1 :].strip():
        place = text.count("\n", 0, text.index(rest, position + 1)) + 1
        problems.append(f"{name}:{place}: not valid JSON: something follows the end of the list")


def _after_gap(text: str, position: int) -> int:
    return GAP.match(text, position).end()  # type: ignore[union-attr]


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[0].lower()}{error.msg[1:]} (column {error.colno})"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
