"""What somebody uploads becomes files of a draft: names looked at, zips taken apart, all bounded.

A file whose name or size does not fit is answered by a sentence and kept nowhere. No name of an
upload becomes a path before `file_names.refused_name` has passed it, links in zips are not made,
and sizes are counted while a zip is read, whatever it says of itself.
"""

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from adire_assets.core.disk import refusal, writing, written_whole
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import (
    LEFTOVER,
    printable,
    refused_name,
    same_form,
    suffix_of,
)

MEGABYTE = 2**20
LARGEST_UPLOAD = 512 * MEGABYTE  # of one request, or one zip
LARGEST_FILE = 64 * MEGABYTE
LARGEST_DRAFT, MOST_FILES = 2048 * MEGABYTE, 5000
LARGEST_DIRECTORY = 2 * MEGABYTE  # of a zip: what is read of it before its members are counted
LARGEST_RATIO, SMALL = 200, MEGABYTE  # how much larger a member may become, above so many bytes
PIECE = 2**16
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others take as much memory as they like
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Room:
    """How much more a draft takes."""

    size: int
    files: int


class NotTaken(Exception):
    """A file is not taken; the message is the sentence about it."""


def take(
    name: str,
    file: Path,
    folder: Path,
    endings: tuple[str, ...],
    takes: str,
    room: Room,
    free: Callable[[str], str],
) -> tuple[list[str], list[tuple[str, str]]]:
    """Copy what `file`, uploaded as `name`, holds into `folder`: itself, or the members of a zip.

    `endings` of the files that are taken, and `takes` in words; `free(name)`: the name that a file
    gets. Returns (names that were kept, [(name as it can be shown, why it was not)]).
    """
    kept: list[str] = []
    refused: list[tuple[str, str]] = []
    left = room
    for given, content in _parts(name, file, refused):
        try:
            found = _name(given, endings, takes)
            if left.files < 1:
                raise NotTaken(f"a change has at most {MOST_FILES:,} files; publish it first")
            found = free(found)
            size = _copied(content, folder / found, min(LARGEST_FILE, left.size), left.size)
        except NotTaken as why:
            refused.append((printable(given), str(why)))
            continue
        left = Room(left.size - size, left.files - 1)
        kept.append(found)
    return kept, refused


def _parts(
    name: str, file: Path, refused: list[tuple[str, str]]
) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """(name, how its content is opened) of a file, or of each member of a zip."""
    if suffix_of(name) != ".zip":
        yield name, lambda: file.open("rb")
        return
    shown = printable(name)
    try:
        with zipfile.ZipFile(_Directory(file)) as archive:
            members = archive.infolist()
            if len(members) > MOST_FILES:
                refused.append((shown, f"has {len(members):,} files; at most {MOST_FILES:,}"))
                return
            for member in members:
                given = member.filename
                # What programs of a desktop pack along nobody has meant to send.
                if member.is_dir() or refused_name(same_form(given)) == LEFTOVER:
                    continue
                if why := _refused_member(member):
                    refused.append((f"{shown}: {printable(given)}", why))
                    continue
                yield given, lambda archive=archive, member=member: _Member(archive, member)  # type: ignore[misc]
    except NotTaken as why:
        refused.append((shown, str(why)))
    except BROKEN as error:
        if refusal(error):  # of the disk
            raise
        refused.append((shown, "is not a zip that can be read; pack it anew"))


def _refused_member(member: zipfile.ZipInfo) -> str | None:
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link; put the file itself there"
    if member.flag_bits & 0x1:
        return "is encrypted; pack it without a password"
    if member.compress_type not in METHODS:
        return "is packed in a way that is not read; pack it as a plain zip"
    if suffix_of(member.filename) == ".zip":
        return "is a zip in a zip; unpack it first"
    if member.file_size > SMALL and member.file_size > LARGEST_RATIO * member.compress_size:
        return f"would become more than {LARGEST_RATIO} times as large; put it there unpacked"
    return None


class _Directory(io.FileIO):
    """A zip's file, whose table of contents is read in one piece that must not be large."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # to the end
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > LARGEST_DIRECTORY:
            raise NotTaken("has too many files, or says so; pack fewer")
        return super().read(size)


class _Member(io.RawIOBase):
    """A member that is read; it ends where more comes out than its packed size allows."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        self.opened = self._tried(partial(archive.open, member))
        self.most = max(SMALL, LARGEST_RATIO * member.compress_size)
        self.seen = 0

    def read(self, size: int = -1, /) -> bytes:
        piece = self._tried(partial(self.opened.read, size))
        self.seen += len(piece)
        if self.seen > self.most:
            raise NotTaken(f"becomes more than {LARGEST_RATIO} times as large; it is no file")
        return piece

    def _tried(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (*BROKEN, RuntimeError) as error:  # RuntimeError: a password
            if refusal(error):  # of the disk
                raise
            raise NotTaken("cannot be read; pack the zip anew") from None

    def close(self) -> None:
        self.opened.close()
        super().close()


def _name(given: str, endings: tuple[str, ...], takes: str) -> str:
    name = same_form(given)
    if why := refused_name(name):
        raise NotTaken(why)
    if suffix_of(name) not in endings:
        raise NotTaken(f"is not taken: this model's data are {takes}")
    if any(suffix_of(part) in endings for part in name.split("/")[:-1]):
        raise NotTaken("a folder in its name is called like a file; rename the folder")
    return name


def _copied(content: Callable[[], IO[bytes]], path: Path, most: int, room: int) -> int:
    """The bytes that were written to `path`, at most `most`; nothing is there for what is more."""
    size = 0
    with writing(path), written_whole(path) as temporary, content() as read:
        with temporary.open("wb") as written:
            while piece := read.read(PIECE):
                size += len(piece)
                if size > most:
                    raise NotTaken(
                        f"is larger than {LARGEST_FILE // MEGABYTE} MiB"
                        if most == LARGEST_FILE
                        else f"a change has at most {LARGEST_DRAFT // MEGABYTE:,} MiB; publish it "
                        "first"
                    )
                written.write(piece)
        temporary.chmod(0o644)
    return size


def require_size(name: str, file: Path) -> None:
    """UserError for an upload that is too large to be looked at."""
    if (size := file.stat().st_size) > LARGEST_UPLOAD:
        raise UserError(
            f"{printable(name)} has {size:,} bytes; at most {LARGEST_UPLOAD:,} at a time"
        )
