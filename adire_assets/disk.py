"""What a file system refuses (it is full, it can only be read, ...) as one sentence with its path.

`told` makes the sentence, which every door shows; `writing` adds the path where the system's own
error has none, as that of a write to an open file.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adire_assets.errors import UserError

ROOM = "make room there (`adire gc --dry-run` says what of this project can go) and try again"
ELSEWHERE = "mount it for writing, or point ADIRE_HOME at a folder that takes files"
SENTENCES = {
    errno.ENOSPC: f"the disk of {{place}} is full; {ROOM}",
    errno.EDQUOT: f"your quota on the disk of {{place}} is used up; {ROOM}",
    errno.EROFS: f"{{place}} lies on a file system that can only be read; {ELSEWHERE}",
    errno.EFBIG: "{place} would become larger than a file may be here; raise `ulimit -f`, or use "
    "another file system",
}
# What the user can mend; anything else is a fault of the code.
REFUSALS = {
    *SENTENCES,
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}


def told(error: OSError, path: Path | str | None = None) -> str:
    """What the system refused; `path` where the error names none."""
    place = error.filename or path or "the file"
    sentence = SENTENCES.get(error.errno or 0)
    return sentence.format(place=place) if sentence else f"{place}: {error.strerror or error}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses while `path`, or what lies in it, is written is a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise UserError(told(error, path)) from error
