"""The pull of what .dvc files name, which looks at every file that it put in place.

Contract: nothing that only the user has is lost. DVC trusts the names of objects in its cache and
in remotes that are folders; here their content is compared with their names, so that a damaged one
counts as missing, another remote is asked, and what is "in place" in the end is what was pinned.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import same_form
from adire_assets.core.project import Project
from adire_assets.core.worker import Progress
from adire_assets.tracking.dvc import files as dvc_files
from adire_assets.tracking.dvc import session
from adire_assets.tracking.dvc.files import Output, listing, outputs_of, typed
from adire_assets.tracking.dvc.working_tree import complete, differences

SHOWN = 3


def pull(
    *, root: str, targets: list[str], progress: Progress, home: str | None = None
) -> dict[str, list[str]]:
    """Bring what the .dvc files `targets` (relative to `root`) name into the working tree.

    A worker function. Remotes are tried in this order: the one an output names itself or the
    default one, then `embedded`. Needs no git checkout. Returns {"pulled": [...], "unchanged":
    [...]}; without anything to pull, dvc is not even imported. UserError with DVC's sentence when
    it fails, when files that only the user has would be lost, or when what it wrote is not what
    was pinned.
    """
    base = Path(root).resolve()
    chosen = home or os.environ.get("ADIRE_HOME")
    project = Project(base, Path(chosen).resolve() if chosen else base / ".adire")
    with project.locks.acquire("dvc"):
        outputs = {target: outputs_of(project, target) for target in targets}
        wanted = [name for name, outs in outputs.items() if not complete(project, outs)]
        for target in targets:
            if target in wanted:
                _pull(project, target, outputs[target], progress)
            else:
                progress(f"{target}: in place already")
    return {"pulled": wanted, "unchanged": [name for name in targets if name not in wanted]}


def _pull(project: Project, target: str, outputs: list[Output], progress: Progress) -> None:
    session.require_dvc(project)
    remotes = session.remotes_of(project, *(output.remote for output in outputs))
    _fetch(project, target, outputs, remotes, progress)
    # dvc removes a whole output when one of its files is not in the cache; by now all are.
    message = f"writing {target}"
    folders = " ".join(typed(project, output.path) for output in outputs)
    advice = (
        f"`dvc add {folders}` takes them in, `dvc checkout --force {typed(project, target)}` "
        "drops them:"
    )
    last = remotes[-1] if remotes else None
    with session.opened(project, message, progress, last, advice) as repo:
        repo.checkout([str(project.root / target)])
    for output in outputs:
        found = differences(project, output)
        if wrong := [*found.changed, *found.missing]:
            paths = [typed(project, output.path / name) for name in wrong[:SHOWN]]
            raise UserError(
                f"{target}: {len(wrong)} files are not what it names though DVC takes them for it, "
                f"such as {wrong[0]}; delete them (`rm {' '.join(paths)}`"
                f"{' ...' if len(wrong) > SHOWN else ''}) and run `adire pull` again"
            )
    progress(f"{target}: in place")


def _fetch(
    project: Project, target: str, outputs: list[Output], remotes: Sequence[str], progress: Progress
) -> None:
    """Fill DVC's cache with what the working tree lacks of `outputs`, all of it sound."""
    said: list[str] = []  # by remotes that failed
    damaged: dict[str, dict[str, str]] = {}  # remote -> {file: MD5}
    _drop_damaged(project, outputs)
    for remote in remotes:
        if not unfetched(project, outputs):
            return
        try:
            message = f"pulling {target} from {remote}"
            with session.opened(project, message, progress, remote) as repo:
                repo.fetch([str(project.root / target)], remote=remote)
        except UserError as error:
            said.append(str(error))
        damaged[remote] = _drop_damaged(project, outputs)
    if not (lacking := unfetched(project, outputs)):
        return
    lists = [output.md5 for output in outputs]
    for remote, files in damaged.items():
        if names := [name for name in files if name in lacking]:
            start = f"{target}: {len(names)} files are damaged in the DVC remote {remote}, such as"
            md5s = [files[name] for name in names]
            raise UserError(_damaged(project, f"{start} {names[0]}", remote, md5s, lists))
    if not remotes:
        raise UserError(
            f"{target}: no DVC remote is configured, and {len(lacking)} files are not in DVC's "
            f"cache; name the place that has them: {session.ADD_REMOTE}"
        )
    raise UserError(
        f"{target}: {len(lacking)} files are in none of the DVC remotes ({', '.join(remotes)}), "
        f"such as {lacking[0]}; whoever made {target} "
        f"{session.push_again(project, remotes[0], lists)}{''.join(f'; {one}' for one in said)}"
    )


def _damaged(
    project: Project, start: str, remote: str, md5s: Sequence[str], lists: Sequence[str]
) -> str:
    """The sentence that begins with `start`, of files that are damaged in a remote."""
    folder = dvc_files.remote_folder(project, remote)
    if folder and _has_line_ends_of_windows(dvc_files.object_file(folder, md5s[0]), md5s[0]):
        place = typed(project, folder)
        return (
            f"{start}: git gave it line ends of Windows when it was checked out (core.autocrlf); "
            f"run `git config core.autocrlf false`, `rm -r {place}` and `git checkout -- {place}`, "
            "then `adire pull`"
        )
    return (
        f"{start} (the content of object {md5s[0]} is not what its name says); whoever has the "
        f"file {session.push_again(project, remote, [*md5s[:SHOWN], *lists])}"
    )


def _has_line_ends_of_windows(file: Path, md5: str) -> bool:
    """Whether an object would be sound with the line ends of Unix."""
    if not file.is_file():
        return False
    return dvc_files.md5_of_bytes(file.read_bytes().replace(b"\r\n", b"\n")) == md5.split(".")[0]


def unfetched(project: Project, outputs: Iterable[Output]) -> list[str]:
    """The files that the working tree lacks and DVC's cache does not have."""
    cache = dvc_files.local_stores(project)[0]
    needed = [(name, md5) for output in outputs for name, md5 in _needed(project, output)]
    lacking = {name: md5 for name, md5 in needed if not dvc_files.object_file(cache, md5).is_file()}
    files = [name for name, md5 in lacking.items() if not md5.endswith(".dir")]
    return files or list(lacking)  # dvc takes a list last, when all files have come


def _needed(project: Project, output: Output) -> Iterator[tuple[str, str]]:
    """(name, MD5) of a folder's list, and of the pinned files, leftovers too, that the working tree
    has not as pinned."""
    listed = {output.path.name: output.md5}
    if output.is_folder:
        yield f"the list {output.md5}", output.md5
        try:
            listed = listing(project, output)
        except UserError:  # nothing local knows the list
            return
    pinned = {same_form(name): md5 for name, md5 in listed.items()}
    found = differences(project, output, leftovers=True)
    yield from ((name, pinned[name]) for name in (*found.missing, *found.changed))


def _drop_damaged(project: Project, outputs: Iterable[Output]) -> dict[str, str]:
    """Remove objects of the cache whose content is not what their names say, as far as `outputs`
    need them, and the copies that DVC put into the working tree; {file: MD5}.

    A file that shares its bytes with the cache (a link) may be the user's own work and stays.
    """
    cache = dvc_files.local_stores(project)[0]
    dropped = {}
    needed = ((output, *pair) for output in outputs for pair in _needed(project, output))
    for output, name, md5 in needed:
        stored = dvc_files.object_file(cache, md5)
        if not stored.is_file() or dvc_files.is_sound(stored, md5):
            continue
        copy = output.path / name if output.is_folder else output.path
        if copy.is_file():
            if copy.samefile(stored):
                continue
            if copy.read_bytes() == stored.read_bytes():
                copy.unlink()
        stored.unlink()
        dropped[name] = md5
    return dropped
