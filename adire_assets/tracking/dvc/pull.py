"""The pull of what .dvc files name, which looks at every file that it put in place.

Contract: nothing that only the user has is lost. DVC trusts the names of objects in its cache and
in remotes that are folders; here their content is compared with their names, so that a damaged one
counts as missing, another remote is asked, and what is "in place" in the end is what was pinned.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import same_form
from adire_assets.core.project import Project
from adire_assets.core.worker import Progress
from adire_assets.tracking.dvc.files import (
    Output,
    is_sound,
    listing,
    local_stores,
    md5_of_bytes,
    object_file,
    outputs_of,
    remote_folder,
    typed,
)
from adire_assets.tracking.dvc.session import (
    ADD_REMOTE,
    heartbeat,
    push_again,
    remotes_of,
    require_dvc,
    session,
)
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


@dataclass
class _Fetch:
    """What the remotes gave: sentences of failures, and damaged objects by remote."""

    said: list[str] = field(default_factory=list)
    damaged: dict[str, dict[str, str]] = field(default_factory=dict)  # remote -> {file: MD5}


def _pull(project: Project, target: str, outputs: list[Output], progress: Progress) -> None:
    require_dvc(project)
    remotes = remotes_of(project, *(output.remote for output in outputs))
    _fetch(project, target, outputs, remotes, progress)
    # dvc removes a whole output when one of its files is not in the cache; by now all are.
    message = f"writing {target}"
    folders = " ".join(typed(project, output.path) for output in outputs)
    advice = (
        f"`dvc add {folders}` takes them in, `dvc checkout --force {typed(project, target)}` "
        "drops them:"
    )
    last = remotes[-1] if remotes else None
    with heartbeat(progress, message), session(project, message, last, advice) as repo:
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
    fetch = _Fetch()
    _drop_damaged(project, outputs)
    for remote in remotes:
        if not unfetched(project, outputs):
            return
        try:
            message = f"pulling {target} from {remote}"
            with heartbeat(progress, message), session(project, message, remote) as repo:
                repo.fetch([str(project.root / target)], remote=remote)
        except UserError as error:
            fetch.said.append(str(error))
        if damaged := _drop_damaged(project, outputs):
            fetch.damaged[remote] = damaged
    lacking = unfetched(project, outputs)
    if lacking:
        raise UserError(_sentence(project, target, outputs, remotes, lacking, fetch))


def _sentence(
    project: Project,
    target: str,
    outputs: Sequence[Output],
    remotes: Sequence[str],
    lacking: list[str],
    fetch: _Fetch,
) -> str:
    """Why `lacking` could not be had, and what helps."""
    lists = [output.md5 for output in outputs]
    for remote, damaged in fetch.damaged.items():
        names = [name for name in damaged if name in lacking]
        if not names:
            continue
        start = (
            f"{target}: {len(names)} files are damaged in the DVC remote {remote}, such as "
            f"{names[0]}"
        )
        folder, md5 = remote_folder(project, remote), damaged[names[0]]
        if folder and _has_line_ends_of_windows(object_file(folder, md5), md5):
            place = typed(project, folder)
            return (
                f"{start}: git gave it line ends of Windows when it was checked out "
                f"(core.autocrlf); run `git config core.autocrlf false`, `rm -r {place}` and "
                f"`git checkout -- {place}`, then `adire pull`"
            )
        objects = [*(damaged[name] for name in names[:SHOWN]), *lists]
        return (
            f"{start} (the content of object {md5} is not what its name says); whoever has the "
            f"file {push_again(project, remote, objects)}"
        )
    if not remotes:
        return (
            f"{target}: no DVC remote is configured, and {len(lacking)} files are not in DVC's "
            f"cache; name the place that has them: {ADD_REMOTE}"
        )
    return (
        f"{target}: {len(lacking)} files are in none of the DVC remotes ({', '.join(remotes)}), "
        f"such as {lacking[0]}; whoever made {target} {push_again(project, remotes[0], lists)}"
        + "".join(f"; {reason}" for reason in fetch.said)
    )


def _has_line_ends_of_windows(file: Path, md5: str) -> bool:
    """Whether an object would be sound with the line ends of Unix."""
    if not file.is_file():
        return False
    return md5_of_bytes(file.read_bytes().replace(b"\r\n", b"\n")) == md5.split(".")[0]


def unfetched(project: Project, outputs: Iterable[Output]) -> list[str]:
    """The files that the working tree lacks and DVC's cache does not have."""
    cache, lacking = local_stores(project)[0], []
    for output in outputs:
        try:
            wanted = _wanted(project, output)
        except UserError:  # nothing local knows the list
            lacking.append(f"the list {output.md5}")
            continue
        names = [name for name, md5 in wanted.items() if not object_file(cache, md5).is_file()]
        is_folder = output.md5.endswith(".dir")
        if is_folder and not names and not object_file(cache, output.md5).is_file():
            names = [f"the list {output.md5}"]  # dvc takes it last, when all files have come
        lacking += names
    return lacking


def _wanted(project: Project, output: Output) -> dict[str, str]:
    """{name: MD5} of the pinned files, leftovers too, that the working tree has not as pinned."""
    if not output.md5.endswith(".dir"):
        listed: Mapping[str, str] = {output.path.name: output.md5}
    else:
        listed = {same_form(name): md5 for name, md5 in listing(project, output).items()}
    found = differences(project, output, leftovers=True)
    return {name: listed[name] for name in (*found.missing, *found.changed)}


def _drop_damaged(project: Project, outputs: Iterable[Output]) -> dict[str, str]:
    """Remove objects of the cache whose content is not what their names say, as far as `outputs`
    need them, and the copies that DVC put into the working tree; {file: MD5}.

    A file that shares its bytes with the cache (a link) may be the user's own work and stays.
    """
    cache = local_stores(project)[0]
    dropped = {}
    for output, name, md5 in _needed(project, outputs):
        stored = object_file(cache, md5)
        if not stored.is_file() or is_sound(stored, md5):
            continue
        copy = output.path / name if output.md5.endswith(".dir") else output.path
        if copy.is_file():
            if copy.samefile(stored):
                continue
            if copy.read_bytes() == stored.read_bytes():
                copy.unlink()
        stored.unlink()
        dropped[name] = md5
    return dropped


def _needed(project: Project, outputs: Iterable[Output]) -> Iterator[tuple[Output, str, str]]:
    for output in outputs:
        if output.md5.endswith(".dir"):
            yield output, f"the list {output.md5}", output.md5
        try:
            wanted = _wanted(project, output)
        except UserError:
            continue
        for name, md5 in wanted.items():
            yield output, name, md5
