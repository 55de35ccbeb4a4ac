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
    """(line, value) of the elements of one list, of the lines of the file, or of values that stand
    one after another.

    What is not JSON is noted in `problems`: of lines every one, else the first, behind which
    nothing can be read.
    """
    start = _after_gap(text, 0)
    if text.startswith("[", start):
        return _of_list(text, name, problems)
    try:
        _, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return _of_lines(text, name, problems)
    many_lines = "\n" in text[start:end]
    return (_one_after_another if many_lines else _of_lines)(text, name, problems)


def _of_lines(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            yield line, DECODER.decode(content)
        except (ValueError, RecursionError) as error:
            problems.append(f"{name}:{line}: not valid JSON: {_reason(error)}")


def _one_after_another(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, Any]]:
    values = _Values(text, name, problems)
    while values.position < len(text) and values.read():
        yield values.line, values.value


def _of_list(text: str, name: str, problems: list[str]) -> Iterator[tuple[int, Any]]:
    values = _Values(text, name, problems)
    values.skip("[")
    while not values.skip("]"):
        if not values.read():
            return
        yield values.line, values.value
        if not values.skip(",") and not text.startswith("]", values.position):
            values.note(
                f"a comma or ] is expected after the record of line {values.line}; "
                "what follows is not read"
            )
            return
    if values.position < len(text):
        values.note("something follows the end of the list")


class _Values:
    """Reads one value after another; `line` is where the last, `value`, begins."""

    def __init__(self, text: str, name: str, problems: list[str]) -> None:
        self.text, self.name, self.problems = text, name, problems
        self.position, self.counted, self.line = _after_gap(text, 0), 0, 1
        self.value: Any = None

    def skip(self, sign: str) -> bool:
        """Whether `sign` stands here; then it is behind us."""
        found = self.text.startswith(sign, self.position)
        if found:
            self.position = _after_gap(self.text, self.position + 1)
        return found

    def read(self) -> bool:
        """Whether a value stands here, which is read; else what is wrong is noted."""
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        try:
            self.value, end = DECODER.raw_decode(self.text, self.position)
        except (ValueError, RecursionError) as error:
            self.position = getattr(error, "pos", self.position)
            self.note(f"{_reason(error)}; what follows is not read")
            return False
        self.position = _after_gap(self.text, end)
        return True

    def note(self, problem: str) -> None:
        line = self.text.count("\n", 0, self.position) + 1
        self.problems.append(f"{self.name}:{line}: not valid JSON: {problem}")


def _after_gap(text: str, position: int) -> int:
    return GAP.match(text, position).end()  # type: ignore[union-attr]


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[0].lower()}{error.msg[1:]} (column {error.colno})"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).encode(errors="backslashreplace").decode()  # keys may hold half a pair
