"""The working tree against what DVC pins: which files are missing, changed or extra.

Files count as the dataset counts them (`file_names.is_content`) and as far as `.dvcignore` lets
`dvc add` see them; a leftover that was pinned by accident counts neither here nor there. MD5s are
remembered in the project's home, so that asking again costs a `stat` per file. Nothing here imports
dvc.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pathspec

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import is_content, same_form
from adire_assets.core.lineage import digest
from adire_assets.core.project import Project
from adire_assets.core.store import read_json, write_json
from adire_assets.tracking.dvc.files import Output, listing, md5_of

ALWAYS_IGNORED = (".hg/", ".git/", ".git", ".dvc/")  # dvc.ignore.DvcIgnoreFilter
SETTLED_SECONDS = 2.0  # a younger file may still change within its time stamp's resolution


@dataclass(frozen=True)
class Differences:
    missing: list[str]
    changed: list[str]
    extra: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed or self.extra)


def compare(
    project: Project, folder: Path, files: Mapping[str, str], *, leftovers: bool = False
) -> Differences:
    """How `folder` differs from `files`, {relative path: MD5}; names in composed form.

    `leftovers`: with the files that do not count.
    """
    files = {same_form(name): md5 for name, md5 in files.items() if leftovers or is_content(name)}
    present = {
        same_form(name): path
        for name, path in (_tracked_files(project, folder) if folder.is_dir() else ())
        if leftovers or is_content(name)
    }
    found = _md5s(project, folder, {name: present[name] for name in files if name in present})
    return Differences(
        missing=sorted(files.keys() - present.keys()),
        changed=sorted(name for name, md5 in found.items() if md5 != files[name]),
        extra=sorted(present.keys() - files.keys()),
    )


def _tracked_files(project: Project, folder: Path) -> Iterator[tuple[str, Path]]:
    """The files below `folder` as `dvc add` sees them: no linked folders, nothing ignored."""
    rules = [(project.root, pathspec.GitIgnoreSpec.from_lines(ALWAYS_IGNORED))]
    for place in (folder, *folder.parents):
        ignore = place / ".dvcignore"
        if place.is_relative_to(project.root) and place != folder and ignore.is_file():
            lines = ignore.read_text(encoding="utf-8").splitlines()
            rules.append((place, pathspec.GitIgnoreSpec.from_lines(lines)))
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not any(spec.match_file(path.relative_to(top)) for top, spec in rules):
                yield path.relative_to(folder).as_posix(), path


def _md5s(project: Project, folder: Path, paths: Mapping[str, Path]) -> dict[str, str]:
    """{name: MD5}, remembered in the project's home under each file's size, inode and times."""
    memory = project.home / "md5" / f"{digest(str(folder))[:32]}.json"
    try:
        known = read_json(memory)
    except (FileNotFoundError, UserError):
        known = {}  # only a memory: without it every file is read again
    result, fresh = dict.fromkeys(paths, ""), {}
    for name, path in paths.items():
        try:
            state = path.stat()
        except FileNotFoundError:  # a link that leads nowhere
            continue
        stamp = f"{state.st_size} {state.st_ino} {state.st_mtime_ns} {state.st_ctime_ns}"
        old_stamp, md5 = known.get(name, ("", ""))
        result[name] = md5 if old_stamp == stamp else md5_of(path)
        if time.time() - max(state.st_mtime, state.st_ctime) > SETTLED_SECONDS:
            fresh[name] = [stamp, result[name]]
    if fresh != known:
        write_json(memory, fresh)
    return result


def complete(project: Project, outputs: Iterable[Output]) -> bool:
    """Whether the working tree holds exactly what the outputs name."""
    try:
        return not any(differences(project, output) for output in outputs)
    except UserError:  # a listing has to be pulled first
        return False


def differences(project: Project, output: Output, *, leftovers: bool = False) -> Differences:
    """How the working tree differs from what an output names. UserError without its listing."""
    if output.is_folder:
        return compare(project, output.path, listing(project, output), leftovers=leftovers)
    name = output.path.name
    there = {name: output.path} if output.path.is_file() else {}
    md5 = _md5s(project, output.path, there).get(name)
    return Differences([] if there else [name], [name] if md5 not in (None, output.md5) else [], [])
