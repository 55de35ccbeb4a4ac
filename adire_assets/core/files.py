"""JSON and other files: a reader sees the old content or the new, never a part."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from adire_assets.core.disk import writing, written_whole
from adire_assets.core.errors import UserError


def read_json(path: Path) -> Any:
    """The content of a JSON file. UserError when it is none, FileNotFoundError without a file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); take it from a backup") from None


def read_json_lines(path: Path) -> list[Any]:
    """The values of a JSON Lines file that the product has written. Newlines alone part them: texts
    may have other line breaks in them, such as U+2028."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old content or the new, never a part."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    with writing(path):
        try:
            with written_whole(path) as temporary:
                temporary.write_bytes(content)
                sync(temporary)
        except OSError as error:
            error.filename = str(path)
            raise


def hard_link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-link a read-only file, or copy it where links are not supported."""
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError:
        shutil.copyfile(source, target)


def sync(path: Path) -> None:
    """Let a file or folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
