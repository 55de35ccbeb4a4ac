"""The files of a folder of data, and their mistakes, named by file and line."""

import codecs
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import is_content, same_form

SHOWN_PROBLEMS = 100
TAKEN_DOWN = "excluded by configs/takedowns.yaml"  # why a file or a record is rejected


def content_files(source: Path, files: Iterable[str] | None = None) -> dict[str, Path]:
    """{relative path in composed form: file} of what is content, sorted.

    `files` are the relative paths to take (default: all below `source`). UserError for two files
    whose names differ in the form of their accents only.
    """
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(source):
        for entry in (*names, *(name for name in folders if Path(parent, name).is_symlink())):
            path = Path(parent, entry)
            name = same_form(path.relative_to(source).as_posix())
            if not is_content(name):
                continue
            if name in found:
                raise UserError(
                    f"{source}: two files are named {name}, with accents that are coded in two "
                    "ways; rename one"
                )
            found[name] = path
    if files is not None:
        wanted = {same_form(name) for name in files if is_content(name)}
        found = {name: found.get(name, source / name) for name in wanted}
    return dict(sorted(found.items()))


def regular_file(path: Path, folder: Path) -> Path:
    """The resolved path of a file of `folder`.

    ValueError, whose text is a clause, when it leads out of `folder`, is no regular file or cannot
    be read.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            raise ValueError(
                "a link that leads out of the folder; put the file itself there (under DVC: `dvc "
                "config cache.type reflink,copy`, then `dvc checkout --relink`)"
            )
        if not stat.S_ISREG(real.stat().st_mode):
            raise ValueError("not a regular file")
        with real.open("rb"):
            return real
    except (FileNotFoundError, RuntimeError):
        raise ValueError("a link that leads nowhere") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None


def decode_text(content: bytes) -> str:
    """A file's text: UTF-8, or UTF-16 with a byte order mark.

    ValueError, whose text is a clause, when it is neither.
    """
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        kind = "UTF-16, as its first bytes say" if utf16 else f"UTF-8 text (line {line})"
        raise ValueError(f"not {kind} (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(
            f"holds zero bytes, so it is not UTF-8 text (line {line}); save it as UTF-8"
        )
    return text


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `object_pairs_hook`. ValueError for a key that occurs twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in row if names.count(name) > 1)
        raise ValueError(f"{twice} stands there twice; keep one")
    return row


def mistakes(subject: str, problems: Sequence[str]) -> str:
    """`subject`, which ends in "has" or "have", and its problems, a line for each."""
    more = len(problems) - SHOWN_PROBLEMS
    lines = [*problems[:SHOWN_PROBLEMS], *([f"... and {more} more"] if more > 0 else [])]
    count = "a mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    return "\n".join([f"{subject} {count}:", *lines])


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """`folder`, absent or empty, is there in the block; an exception leaves it as it was."""
    existed = folder.exists()
    if existed and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder for the dataset")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder)
        if existed:
            folder.mkdir()
        raise
