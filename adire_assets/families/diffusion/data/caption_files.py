"""The metadata files of a folder of images, written anew with other captions.

What a file says besides, its other columns and rows, stays; a table is written with commas.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any

from adire_assets.core.data_files import decode_text
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import same_form, suffix_of
from adire_assets.families.diffusion.data.captions import METADATA, REQUIRED, json_rows
from adire_assets.families.diffusion.data.tables import csv_rows


def changed_metadata(
    there: Mapping[str, Path], texts: Mapping[str, str], gone: set[str]
) -> Iterator[tuple[str, bytes | None]]:
    """(name, new content, None for one without rows) of each metadata file of `there`, {path in the
    folder: file}, that changes when images get the captions `texts` and the images `gone` go.

    A caption stands where it stood, else in the folder's own file, by default metadata.csv.
    UserError for a file with mistakes.
    """
    left = {name: text for name, text in texts.items() if name not in gone}
    known = [name for name in sorted(there) if name.rpartition("/")[2].casefold() in METADATA]
    top = next((name for name in known if "/" not in name), METADATA[0])
    tables = {name: _rows(there[name], name) for name in known} | (
        {} if top in known else {top: []}
    )
    changed = set()
    for name, rows in tables.items():
        folder = name.rpartition("/")[0]
        for row in [*rows]:
            named = row["file_name"].strip().replace("\\", "/")
            image = normpath(same_form(f"{folder}/{named}".lstrip("/")))
            if image in gone:
                rows.remove(row)
                changed.add(name)
            elif image in left:
                text = left.pop(image)
                if row["text"] != text:
                    row["text"] = text
                    changed.add(name)
    for image, text in sorted(left.items()):
        tables[top].append({"file_name": image, "text": text})
        changed.add(top)
    for name in sorted(changed):
        yield name, _written(tables[name], name) if tables[name] else None


def _rows(path: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a metadata file; its mistakes were told when the data were looked at."""
    reader = csv_rows if suffix_of(name) == ".csv" else json_rows
    problems: list[str] = []
    found = [row for _, row in reader(decode_text(path.read_bytes()), name, problems, REQUIRED)]
    if problems:
        raise UserError("\n".join(problems))
    return found


def _written(rows: Sequence[Mapping[str, Any]], name: str) -> bytes:
    if suffix_of(name) != ".csv":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    columns = list(dict.fromkeys([*REQUIRED, *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
