"""Tables as spreadsheets and scripts write them: CSV in its dialects.

Read are commas, semicolons and tabs between the fields, blanks after them and at a line's end, and
double quotes around a field. What is wrong is noted with file and line, as it was found.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

DELIMITERS = (",", ";", "\t")
SHOWN_HEADER = 60  # characters


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
