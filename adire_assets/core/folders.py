"""Folders that one process owns for a while; those of a killed process are found and removed.

The process holds a lock on the folder itself, which dies with it.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adire_assets.core.disk import writing
from adire_assets.core.errors import UserError
from adire_assets.core.locks import lock_at_once

if TYPE_CHECKING:
    from adire_assets.core.project import Project

GONE = ".gone-"
LOCK = "temporary-folders"  # held while a folder is made and locked, and while they are listed


@contextmanager
def temporary_folder(project: "Project", parent: Path) -> Iterator[Path]:
    """A new folder below `parent`, gone afterwards; what a killed process left there goes first."""
    parent.mkdir(parents=True, exist_ok=True)
    with abandoned_folders(project, parent) as folders:
        for old in folders:
            shutil.rmtree(old, ignore_errors=True)
    with ExitStack() as held:
        with project.locks.acquire(LOCK):
            folder = Path(tempfile.mkdtemp(dir=parent))
            assert _held(held, folder)
            held.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def delete_folder(folder: Path) -> None:
    """Delete a folder, whole or, by its name, not at all; what somebody killed in it has left goes
    too. UserError where the disk refuses."""
    if folder.is_dir():
        with writing(folder):
            folder.rename(folder.with_name(f"{GONE}{secrets.token_hex(8)}"))
        for gone in folder.parent.glob(f"{GONE}*"):
            shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def scratch_folder(project: "Project", name: str) -> Iterator[Path]:
    """An empty folder that one process has at a time, and that a killed one leaves to the next."""
    folder = project.home / "work" / name
    with project.locks.acquire(name):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@contextmanager
def abandoned_folders(project: "Project", parent: Path) -> Iterator[list[Path]]:
    """The folders below `parent` that no living process owns; the caller owns them meanwhile."""
    with ExitStack() as held, project.locks.acquire(LOCK):
        yield [folder for folder in sorted(parent.glob("*/")) if _held(held, folder)]


@contextmanager
def exclusive_folder(folder: Path, busy: str) -> Iterator[None]:
    """`folder`, made if it is missing, is this process's until the block ends; UserError(`busy`)
    when another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        if not _held(held, folder):
            raise UserError(busy)
        yield


def _held(held: ExitStack, folder: Path) -> bool:
    """Whether `folder` could be locked, which it is until `held` ends."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # its holder has just tidied up
        return False
    held.callback(os.close, descriptor)
    return lock_at_once(descriptor)
