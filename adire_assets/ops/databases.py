"""SQLite databases: copied while they are in use, and made to name another folder."""

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from adire_assets.core.disk import refusal
from adire_assets.core.errors import UserError

MAGIC = b"SQLite format 3\0"
BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a database
BUSY_SECONDS = 60.0
JSON_BEGINS = ("{", "[", '"')


def is_database(path: Path) -> bool:
    """Whether a file is an SQLite database; False when it is gone."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except FileNotFoundError:
        return False


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment. UserError when it is damaged."""
    # SQLite cannot open what it would have to recover first; there nobody writes, so files do.
    still = bool(os.statvfs(source).f_flag & os.ST_RDONLY)
    try:
        if still:
            for end in ("", "-wal"):
                if Path(f"{source}{end}").is_file():
                    shutil.copyfile(f"{source}{end}", f"{target}{end}")
        with closing(sqlite3.connect(target)) as new:
            if not still:
                with closing(sqlite3.connect(source, timeout=BUSY_SECONDS)) as old:
                    old.backup(new)
            [[found]] = new.execute("PRAGMA quick_check(1)").fetchall()
            state = " ".join(found.split())
    except sqlite3.Error as error:
        state = refusal(error, target) or str(error)
    if state != "ok":
        raise UserError(f"the database {source} cannot be copied to {target}: {state}")


def replace_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Replace texts wherever a row has them, unless a name goes on behind them.

    Within JSON the values are replaced, whatever escapes they are written with.
    """
    parts = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
    pattern = re.compile(rf"({parts})(?![\w.-])")

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {replaced(name): replaced(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if value[:1] in JSON_BEGINS:
            try:
                inner = json.loads(value)
            except ValueError:
                pass
            else:
                other = replaced(inner)
                return value if other == inner else json.dumps(other)
        return pattern.sub(lambda found: texts[found[1]], value)

    with closing(sqlite3.connect(path)) as database:
        database.create_function("replaced", 1, replaced)
        tables = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        for [table] in tables:
            for _, column, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = replaced("{column}") '
                    f"WHERE typeof(\"{column}\") = 'text' "
                    f'AND replaced("{column}") IS NOT "{column}"'
                )
        database.commit()
