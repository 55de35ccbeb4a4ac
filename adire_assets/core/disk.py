"""What a file system refuses (it is full, it can only be read, ...) as one sentence with its path.

`writing` turns a refusal into a UserError. It adds the path where the system's own error has none,
as after a write to an open file. `refusal` finds a refusal behind the exception of a library, for
the edges (command line, worker, Dagster). `written_whole` writes a file or folder so that it is
there whole or not at all.
"""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adire_assets.core.errors import UserError

ROOM = "make room there (`adire gc --dry-run` says what of this project can go) and try again"
ELSEWHERE = "mount it for writing, or point ADIRE_HOME at a folder that takes files"
SENTENCES = {
    errno.ENOSPC: f"the disk of {{place}} is full; {ROOM}",
    errno.EDQUOT: f"your quota on the disk of {{place}} is used up; {ROOM}",
    errno.EROFS: f"{{place}} lies on a file system that can only be read; {ELSEWHERE}",
    errno.EFBIG: "{place} would become larger than a file may be here; raise `ulimit -f`, or use "
    "another file system",
    errno.EIO: "{place} cannot be read or written: its disk is full or fails; `df` and the log of "
    "the system tell which",
}
ROOM_BYTES = 2**18
SHOWN_CHARACTERS = 40  # of a file's name in that of its temporary one
# What the user can mend; anything else is a fault of the code.
REFUSALS = {
    *SENTENCES,
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}

# How libraries that raise no OSError hand it on.
WORDS = {
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
    "attempt to write a readonly database": errno.EROFS,
    "File too large": errno.EFBIG,
}


def os_error_sentence(error: OSError, path: Path | str | None = None) -> str:
    """The system's refusal in a sentence; `path` is named where the error has none."""
    # Of two files it is the second that is written, as in a copy.
    place = error.filename2 or error.filename or path or "the project's home"
    sentence = SENTENCES.get(error.errno or 0)
    return sentence.format(place=place) if sentence else f"{place}: {error.strerror or error}"


def refusal(error: BaseException, home: Path | None = None) -> str | None:
    """The sentence for an exception that a refusal of the file system caused, else None.

    `home` is named where the exception has no path.
    """
    if isinstance(error, OSError) and error.errno is not None:  # shutil.copytree's has none
        return os_error_sentence(error, home) if error.errno in REFUSALS else None
    cause: BaseException | None = error
    while cause is not None:
        for words, number in WORDS.items():
            if words in str(cause):
                return os_error_sentence(OSError(number, words), home)
        cause = cause.__cause__ or cause.__context__
    return None


def require_room(folder: Path) -> None:
    """UserError unless a little can be written into a folder, which is made if need be.

    Call it before a program that says less about a full disk writes there.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise UserError for what the system refuses while `path`, or a file in it, is written."""
    try:
        yield
    except OSError as error:
        sentence = refusal(error, path)
        if sentence is None:
            raise
        raise UserError(sentence) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path for a file or folder, renamed to `path` when the block succeeds.

    No other writer has this path, and it is removed when the block fails. Of several writers at
    once, the last one's file stays. The name is hidden, ends in .tmp, and fits the file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:SHOWN_CHARACTERS]}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # it is gone already, or never came into being
            temporary.unlink()
