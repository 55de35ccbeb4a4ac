"""Short and plain names for folders whose own names some program cannot take.

A unix socket takes a hundred characters, and Triton hands the paths of a Python model to a shell as
they are, where a blank or a quote ends them.
"""

import os
import re
import tempfile
from hashlib import sha256
from pathlib import Path

from adire_assets.core.disk import written_whole
from adire_assets.core.errors import UserError

PLAIN = re.compile(r"[A-Za-z0-9_./+@=,-]+")


def private_folder(owner: Path) -> Path:
    """A folder of this user alone for what belongs to `owner`, below the temporary one."""
    temporary = tempfile.gettempdir()
    name = f"adire-{os.getuid()}-{sha256(os.fsencode(owner)).hexdigest()[:16]}"
    folder = Path(temporary if PLAIN.fullmatch(temporary) else "/tmp") / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise UserError(f"{folder} belongs to somebody else; set ADIRE_HOME to a shorter path")
    return folder


def plain_below(home: Path, path: Path) -> Path:
    """The path by a link to `home`, of which there is one, where it lies below that."""
    if path.is_relative_to(home):
        return plain(home) / path.relative_to(home)
    return plain(path)


def plain(path: Path) -> Path:
    """The path, or a link to it whose name no shell takes apart."""
    if PLAIN.fullmatch(str(path)):
        return path
    link = private_folder(path) / "link"
    if not link.is_symlink() or link.readlink() != path:
        with written_whole(link) as fresh:
            fresh.symlink_to(path)
    return link
