"""Where a project lies: what users keep in git, what runs produce, and what stands behind the
plugs (`Storage`, `Locks`, `Records`, `Placement`): the one place that chooses."""

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import spelled_as_on_disk
from adire_assets.core.locks import FileLocks, Locks
from adire_assets.core.placement import LocalPlacement, Placement
from adire_assets.core.records import FileRecords, Records
from adire_assets.core.storage import FileStorage, Storage

NOT_IN_A_URL = re.compile(r"\?|%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Project:
    """Where things are: `root` holds configs/, data/ and .dvc/; `home` holds what runs produce."""

    root: Path
    home: Path

    @staticmethod
    def find(start: Path | None = None) -> "Project":
        """The project around `start` (default: ADIRE_PROJECT, else the working directory).

        UserError when there is none, and for a home whose path no database's address can name.
        """
        begin = Path(os.environ.get("ADIRE_PROJECT") or start or Path.cwd()).resolve()
        for folder in (begin, *begin.parents):
            if (folder / "configs" / "models").is_dir():
                named = os.environ.get("ADIRE_HOME")
                home = Path(named).resolve() if named else folder / ".adire"
                if part := NOT_IN_A_URL.search(str(home)):
                    raise UserError(
                        f"{home} cannot hold databases, because {part[0]!r} has a meaning in their "
                        "addresses; rename the folder, or set ADIRE_HOME to another one"
                    )
                return Project(folder, home)
        raise UserError(
            f"no project in {begin}: no folder from there upwards has configs/models/; change into "
            "one, set ADIRE_PROJECT to it, or make one with `adire init DIRECTORY`"
        )

    @property
    def identity(self) -> str:
        """What tells this home from another, without telling where it lies."""
        return sha256(os.fsencode(self.home)).hexdigest()[:16]

    @property
    def locks(self) -> Locks:
        return FileLocks(self.home / "locks")

    @property
    def records(self) -> Records:
        return FileRecords(self.home, self.locks)

    @property
    def placement(self) -> Placement:
        return LocalPlacement(self)

    @property
    def storage(self) -> Storage:
        return FileStorage(self.home)

    def model_file(self, name: str) -> Path:
        return self.root / "configs" / "models" / f"{name}.yaml"

    def inside(self, path: str, key: str) -> Path:
        """`path` from a config, resolved below the project root; UserError when it leaves it."""
        try:
            full = spelled_as_on_disk((self.root / path).resolve())
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{key}: {path!r} is no path that can be followed ({reason})") from None
        if not full.is_relative_to(self.root):
            raise UserError(f"{key}: {path} leaves the project folder {self.root}; name one inside")
        return full
