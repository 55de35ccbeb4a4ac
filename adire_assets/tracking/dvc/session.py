"""DVC itself, with a project open: its errors become sentences, its silence gets a heartbeat."""

import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.worker import Progress
from adire_assets.tracking.dvc.files import (
    object_file,
    read_config,
    remote_folder,
    remote_urls,
    typed,
)

EMBEDDED_REMOTE = "embedded"
HEARTBEAT_SECONDS = 5.0
ADD_REMOTE = "`dvc remote add --default <name> <url>`"


@contextmanager
def opened(
    project: Project, action: str, progress: Progress, remote: str | None, force_advice: str = ""
) -> Iterator[Any]:
    """DVC's view of the project with `remote` as its default; what it raises becomes a UserError.

    `progress` is told of the `action` now and again.
    DVC wants git only to keep .gitignore files, so it is told that there is none and a plain copy
    of the project works as well. While somebody runs dvc by hand it waits instead of failing.
    `force_advice` replaces DVC's advice to use an option of its own command line.
    """
    from dvc.repo import Repo

    settings = {"core": {"no_scm": True, **({"remote": remote} if remote else {})}}
    logged: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with (
            heartbeat(progress, action),
            Repo(str(project.root), config=settings, _wait_for_lock=True) as repo,
        ):
            yield repo
    except Exception as error:  # remotes are plug-ins, which raise what their own library raises
        plain = re.sub(r"\x1b\[\d+m|<https?://[^>]*>", "", str(error) or type(error).__name__)
        plain = plain.replace("Use `--force` to force.", force_advice)
        sentences = [" ".join(text.split()) for text in (plain, *logged[-1:])]
        raise UserError(f"DVC failed while {action}: {' - '.join(sentences)}") from error
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextmanager
def heartbeat(progress: Progress, message: str) -> Iterator[None]:
    """Report `message` every few seconds inside the block, in which DVC itself is silent."""
    done = threading.Event()

    def beat() -> None:
        started = time.monotonic()
        while not done.wait(HEARTBEAT_SECONDS):
            progress(f"{message}: {time.monotonic() - started:.0f} s")

    progress(message)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def require_dvc(project: Project) -> None:
    """UserError when the project has no DVC configuration."""
    if (project.root / ".dvc").is_dir():
        return
    above = any((folder / ".git").exists() for folder in project.root.parents)
    option = " --subdir" if above else " --no-scm"
    init = f"`dvc init{'' if (project.root / '.git').exists() else option}`"
    raise UserError(
        f"{project.root} has no .dvc folder, so DVC cannot tell where the data is; clone the whole "
        f"repository, or run {init} there and {ADD_REMOTE}"
    )


def remotes_of(project: Project, *first: str | None) -> list[str]:
    """Names of remotes in the order in which they are tried: `first`, DVC's default, `embedded`."""
    embedded = EMBEDDED_REMOTE if EMBEDDED_REMOTE in remote_urls(project) else None
    return [name for name in dict.fromkeys([*first, default_remote(project), embedded]) if name]


def default_remote(project: Project) -> str | None:
    return read_config(project).get("core", {}).get("remote")


def push_again(
    project: Project, remote: str, objects: Iterable[str], push: str = "dvc push --remote {}"
) -> str:
    """The commands by which somebody who has files brings them into `remote`, where the named
    objects (MD5s) are damaged or are lists of folders that lack files.

    DVC takes an object that is there for sound, and with a list all that it names.
    """
    push = f"`{push.format(remote)}`"
    folder = remote_folder(project, remote)
    if folder is None:
        return f"deletes {', '.join(objects)} from {remote}, if there, and runs {push}"
    files = [object_file(folder, md5) for md5 in objects]
    there = " ".join(typed(project, file) for file in files if file.is_file())
    return f"runs `rm -f {there}` and {push}" if there else f"runs {push}"
