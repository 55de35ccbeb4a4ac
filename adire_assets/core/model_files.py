"""A folder of a model's weights, as the hash of its names and bytes.

Gigabytes are read once per process, and again when a name, size or time has changed.
"""

from functools import cache
from pathlib import Path

from adire_assets.core.file_names import is_content
from adire_assets.core.lineage import digest, file_digest

NOT_CONTENT = (".cache", ".git", ".gitignore", ".gitattributes")  # what tools leave in folders


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of a model's files that count (`file_names.is_content`)."""
    folder = folder.resolve()
    found = (
        (path.relative_to(folder).as_posix(), path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    counted = [
        (name, path)
        for name, path in found
        if name.split("/")[0] not in NOT_CONTENT and is_content(name)
    ]
    return _digest(folder, tuple((name, *_size_and_time(path)) for name, path in counted))


def file_hash(path: Path) -> str:
    """SHA-256 of the bytes of a model's file."""
    return _file_digest(path, *_size_and_time(path))


def _size_and_time(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


@cache
def _digest(folder: Path, stats: tuple) -> str:
    return digest({name: file_digest(folder / name) for name, *_ in stats})


@cache
def _file_digest(path: Path, size: int, time: int) -> str:
    return file_digest(path)
