"""Tables as spreadsheets and scripts write them: text in UTF-8 or UTF-16, CSV in its dialects.

Read are commas, semicolons and tabs between the fields, blanks after them and at a line's end, and
double quotes around a field. What is wrong is noted with file and line, as it was found.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from typing import Any

DELIMITERS = (",", ";", "\t")
SHOWN_HEADER = 60  # characters


def decode_text(content: bytes) -> str:
    """A file's text: UTF-8, or UTF-16 with its mark. ValueError, a clause, when it is neither."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        kind = "UTF-16, as its first bytes say" if utf16 else f"UTF-8 text (line {line})"
        raise ValueError(f"not {kind} (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("holds zero bytes, so it is not UTF-8 text; save it as UTF-8")
    return text


def csv_rows(
    text: str, name: str, problems: list[str], required: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, {column: field}) of the table `text` whose first line names at least `required`."""
    text = re.sub(r" +(?=\r?$)", "", text, flags=re.MULTILINE)
    lines = text.lstrip().splitlines()
    if not lines:
        problems.append(f"{name}: is empty; its first line has to be {','.join(required)}")
        return
    delimiter = next((one for one in DELIMITERS if {*required} <= {*_fields(lines[0], one)}), None)
    if delimiter is None:
        lacking = [key for key in required if key not in _fields(lines[0], ",")]
        problems.append(
            f"{name}:1: no column {' and no column '.join(lacking)} in its first line "
            f"({lines[0][:SHOWN_HEADER]}), which has to name {','.join(required)}"
        )
        return
    if twice := [key for key in required if _fields(lines[0], delimiter).count(key) > 1]:
        problems.append(f"{name}:1: two columns are named {twice[0]}; rename or remove one")
        return
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    columns: list[str] = []
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if not columns:
                columns = [value.strip() for value in values]
                continue
            while len(values) > len(columns) and not values[-1].strip():
                values.pop()  # spreadsheets end a line with empty fields
            if len(values) != len(columns):
                found = " | ".join(values)
                problems.append(
                    f"{name}:{reader.line_num}: {len(values)} fields where the first line has "
                    f"{len(columns)}: {found}; a field that holds a {_word(delimiter)} stands "
                    'between double quotes ("...")'
                )
                continue
            yield reader.line_num, dict(zip(columns, values, strict=True))
    except csv.Error as error:
        problems.append(f"{name}:{reader.line_num}: not valid CSV: {error}")


def _fields(line: str, delimiter: str) -> list[str]:
    [values] = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    return [value.strip() for value in values]


def _word(delimiter: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab"}[delimiter]
