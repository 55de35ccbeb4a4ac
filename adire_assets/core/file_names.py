"""Which files of a folder count, and when two names are the same.

Desktops and editors leave hidden and temporary files in folders of data. Every step that lists data
or weights asks `is_content`, so that all of them see the same files; `.dvcignore` has the same
patterns for DVC. Names are compared in Unicode's composed form (`same_form`), because macOS and
Linux encode an accent in two ways. What somebody else has named a file is looked at by
`refused_name` before it becomes a path.
"""

import re
import unicodedata
from fnmatch import fnmatchcase
from pathlib import Path

# Patterns of a name without its folder, of any case.
LEFTOVERS = (
    *("*~", "#*#", "*.bak", "*.orig", "*.tmp", "*.part", "*.crdownload", "*.swp", "*.swo"),
    *("~$*", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "$recycle.bin", "__pycache__"),
)
LEFTOVER = "it is hidden or a program's leftover"  # why a name is refused
LONGEST_PART, MOST_PARTS = 150, 8  # bytes of one part of a path, which may get an addition; parts
UNFIT = re.compile(r'[<>:"|?*\\]')  # Windows keeps no such name, and takes \ for a separator
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?", re.I)


def refused_name(name: str) -> str | None:
    """Why a relative path that somebody else chose must not be the name of a file, a clause; None
    for one that every common file system keeps as it is."""
    parts = name.split("/")
    if not name.strip("/ "):
        return "it has no name"
    if name.startswith("/") or ".." in parts or "." in parts or "" in parts:
        return "its name leads elsewhere (/ in front, ., .. or an empty part)"
    if any(
        unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for sign in name
    ):
        return "its name has characters that cannot be seen; rename it"
    if wrong := UNFIT.search(name):
        return f"its name has a {wrong[0]}; rename it"
    if len(parts) > MOST_PARTS or any(len(part.encode()) > LONGEST_PART for part in parts):
        return f"its name is too long (at most {LONGEST_PART} bytes, and {MOST_PARTS} folders)"
    if any(part != part.strip() or part.endswith(".") for part in parts):
        return "its name begins or ends with a blank or ends with a dot; rename it"
    if any(DEVICES.fullmatch(part) for part in parts):
        return "its name is that of a device of Windows; rename it"
    if not is_content(name):
        return LEFTOVER
    return None


def printable(name: str, characters: int = 80) -> str:
    """The beginning of a name as it can be shown: in it is nothing that is not printable."""
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in name)
    return shown if len(shown) <= characters else f"{shown[:characters]}..."


def is_content(name: str) -> bool:
    """Whether the file with the relative path `name` is content: no part of the path is hidden or
    a leftover."""
    return not any(
        part.startswith(".") or any(fnmatchcase(part.casefold(), left) for left in LEFTOVERS)
        for part in name.split("/")
    )


def same_form(text: str) -> str:
    """`text` in Unicode's composed form (NFC); texts that read the same become equal."""
    return unicodedata.normalize("NFC", text)


def suffix_of(name: str) -> str:
    """What follows the last dot of a name, with the dot, in lower case; "" when there is none."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.casefold()}" if dot and stem else ""


def spelled_as_on_disk(path: Path) -> Path:
    """The absolute `path`, each part as the disk spells it where only the form of accents differs;
    parts that are not there stay."""
    if path.exists():
        return path
    place = Path(path.anchor)
    for part in path.parts[1:]:
        wanted = place / part
        if not wanted.exists() and place.is_dir():
            alike = (one for one in place.iterdir() if same_form(one.name) == same_form(part))
            wanted = next(alike, wanted)
        place = wanted
    return place
