"""Which files of a folder count, and when two names are the same.

Desktops and editors leave hidden and temporary files in folders of data. Every step that lists data
or weights asks `is_content`, so that all of them see the same files; `.dvcignore` has the same
patterns for DVC. Names are compared in Unicode's composed form (`same_form`), because macOS and
Linux encode an accent in two ways.
"""

import unicodedata
from fnmatch import fnmatchcase
from pathlib import Path

# Patterns of a name without its folder, of any case.
LEFTOVERS = (
    *("*~", "#*#", "*.bak", "*.orig", "*.tmp", "*.part", "*.crdownload", "*.swp", "*.swo"),
    *("~$*", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "$recycle.bin", "__pycache__"),
)


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
