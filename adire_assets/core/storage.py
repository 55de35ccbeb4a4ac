"""The plug `Storage`: complete folders that nobody changes; and storage in files.

A folder has a name of three parts, <model>/<kind>/<key>, and holds a manifest.json. `core.store`
says what lies in it and by what it is found.
"""

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Protocol

from adire_assets.core import readers
from adire_assets.core.files import sync

WITHDRAWN = "gc-"  # how the names begin of folders that are being deleted


class Storage(Protocol):
    """Folders by name, shared by all processes of a home."""

    def find(self, name: str) -> Path | None:
        """A folder, to be read here, or None. It is held (`hold`) before it is looked for."""

    def put_if_absent(self, name: str, folder: Path) -> bool:
        """Move a finished folder in, whole at once; False when there is one, which stays. What is
        put is never seen in part."""

    def names(self) -> list[str]:
        """The names of all folders, sorted."""

    def hold(self, name: str) -> None:
        """Keep a folder, also one that is still to be put, from being deleted until this process
        ends, or the block of `readers.reading` around it. Waits for who is deleting it."""

    def delete_unheld(
        self, names: Iterable[str], needless: Callable[[], Iterable[str]], dry_run: bool = False
    ) -> Iterator[tuple[str, Path]]:
        """Delete those of `names` that no other process holds and that are `needless`.

        `needless` is asked while nobody can begin to hold them: what has become needed until then
        was held by who needs it. All of them are out of sight at once; then each is given, (name,
        folder), while it can be measured, and deleted when the next one is asked for.
        """


@dataclass(frozen=True)
class FileStorage:
    """Each folder is <home>/store/<name>; who reads it is told by `core.readers`."""

    home: Path

    @property
    def root(self) -> Path:
        return self.home / "store"

    def find(self, name: str) -> Path | None:
        self.hold(name)
        folder = self.root / name
        return folder if (folder / "manifest.json").is_file() else None

    def put_if_absent(self, name: str, folder: Path) -> bool:
        final = self.root / name
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(final)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        sync(final.parent)
        return True

    def names(self) -> list[str]:
        # Unlike pathlib's, this glob passes over what is taken away while it looks.
        found = glob("*/*/*/manifest.json", root_dir=self.root)  # noqa: PTH207
        return sorted(Path(name).parent.as_posix() for name in found)

    def hold(self, name: str) -> None:
        readers.hold(self.home, name)

    def delete_unheld(
        self, names: Iterable[str], needless: Callable[[], Iterable[str]], dry_run: bool = False
    ) -> Iterator[tuple[str, Path]]:
        with readers.exclusive(self.home, names) as free:
            chosen = [name for name in needless() if name in free]
            place = self.root.joinpath if dry_run else self.withdraw
            folders = {name: place(name) for name in chosen}
        for name, folder in folders.items():
            yield name, folder
            if not dry_run:
                with suppress(FileNotFoundError):  # another `adire gc` has deleted it
                    shutil.rmtree(folder)

    def withdraw(self, name: str) -> Path:
        """Move a folder out of sight, at once and whole; where it can be deleted at leisure."""
        doomed = self.root / ".tmp" / f"{WITHDRAWN}{name.replace('/', '-')}"
        doomed.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(doomed, ignore_errors=True)
        (self.root / name).rename(doomed)
        return doomed
