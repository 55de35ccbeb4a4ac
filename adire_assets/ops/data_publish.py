"""Publishing a change of a model's data, its versions so far, and going back to one of them.

A version is a commit that changed the model's part of its .dvc file. `studio.publish` of the fleet
file says where a new one goes: `direct`, on the branch of this checkout, whose data/ is brought in
line; or `branch`, on a new branch data/<who>-<date> for somebody to merge.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

import yaml

from adire_assets.config.fleet import load_fleet
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import printable
from adire_assets.core.folders import temporary_folder
from adire_assets.core.lineage import digest
from adire_assets.core.placement import run_step
from adire_assets.core.project import Project
from adire_assets.core.worker import Progress
from adire_assets.ops import data_commit, data_draft
from adire_assets.ops.data_commit import Change
from adire_assets.ops.data_draft import Draft, Place
from adire_assets.tracking.dvc import files as dvc_files
from adire_assets.tracking.dvc import versions as dvc_versions
from adire_assets.tracking.git import git

PIN = "adire_assets.tracking.dvc.pin:pin"
EXPORT = "adire_assets.tracking.dvc.versions:export"
SHOWN_VERSIONS = 50
SHOWN_TEXT = 200  # characters of a reason or a name
COMMIT = re.compile(r"[0-9a-f]{7,40}")
FACTS = "--format=%H%x00%aI%x00%an%x00%s"  # and %x00, by -z


@dataclass(frozen=True)
class Version:
    """The data of a model since a commit. `files`: how many, None where their list is not on this
    machine; `data_hash`, `dvc_hash`: see `tracking.dvc.versions.Subtree`."""

    commit: str
    date: str
    by: str
    reason: str
    files: int | None
    data_hash: str
    dvc_hash: str
    current: bool

    def told(self) -> str:
        """A line."""
        count = "" if self.files is None else f", {self.files} files"
        now = " (now)" if self.current else ""
        return f"{self.commit[:12]}{now}  {self.date[:16]}  {self.by}{count}: {self.reason}"


def publish(project: Project, model: str, by: str, reason: str, progress: Progress) -> str:
    """Commit the draft of `by`, who says why; the line that tells where it is.

    UserError, with nothing changed, when there is nothing to publish, when the checkout is not as
    its commit says, or when the data has changed so that something of the draft is refused now.
    """
    found = data_draft.place(project, model, by)
    reason = _reason(reason)
    with _recovered(project) as said, data_draft.locked(found):
        parent, mode = _require_clean(found)
        draft = data_draft.read(found)
        if draft.is_empty:
            raise UserError(f"there is no change of {model} by {by} to publish; add files first")
        there = data_draft.pinned(found)
        if draft.unchecked or draft.against != digest(there):
            data_draft.check_anew(found, draft, progress)
            if news := draft.refused:
                raise UserError(
                    "not published, because the last check has refused files; look at the rest and "
                    "publish again:\n" + "\n".join(f"{name}: {why}" for name, why in news[:20])
                )
        if draft.is_empty:
            raise UserError(f"the change of {model} by {by} is in the data already")
        with temporary_folder(project, project.home / "jobs") as output:
            changes = found.functions.lay_down(
                source=found.data,
                files=there,
                draft=found.files,
                items=draft.items,
                texts=draft.texts,
                removed=draft.removed,
                output=output,
            )
            _require_free_names(draft, there)
            told = _carry_out(found, parent, mode, there, changes, reason, progress, found.folder)
            return "\n".join([*said, told])


@contextmanager
def _recovered(project: Project) -> Iterator[list[str]]:
    """Hold the lock; the lines of what somebody who was killed has left, which a refusal tells."""
    with project.locks.acquire(data_commit.LOCK):
        said = data_commit.recover_locked(project)
        try:
            yield said
        except UserError as error:
            raise UserError("\n".join([*said, str(error)])) from error


def _reason(reason: str) -> str:
    if said := data_draft.one_line(reason, "the reason"):
        return said
    raise UserError("a change of the data needs a reason, which becomes the commit's message")


def _require_clean(found: Place) -> tuple[str, str]:
    """(commit, mode of publishing) of a checkout that can be published from."""
    mode = load_fleet(found.project).studio.publish
    data, project = found.config.data, found.project
    parent = data_commit.require_committed(project, data.dvc_file, mode)
    if there := data_draft.pinned(found):
        tree = dvc_versions.subtree(project, data.dvc_file, data.path)
        assert tree.files == there
        dvc_versions.verify_working_tree(project, data.dvc_file, data.path, tree)
    return parent, mode


def _require_free_names(draft: Draft, there: Mapping[str, str]) -> None:
    taken = {name.casefold(): name for name in there}
    files = {*taken}
    for name in there:  # nor is a file called like a folder
        taken |= {str(one): name for one in PurePosixPath(name.casefold()).parents}
    for one in draft.items:
        path = PurePosixPath(one["file"].casefold())
        if other := taken.get(str(path)) or next(
            (taken[str(up)] for up in path.parents if str(up) in files), None
        ):
            raise UserError(
                f"{other} has come into the data meanwhile; drop {one['file']} and upload it again "
                "under another name"
            )


def _carry_out(
    found: Place,
    parent: str,
    mode: str,
    there: Mapping[str, str],
    changes: Mapping[str, Path | None],
    reason: str,
    progress: Progress,
    draft: Path | None,
) -> str:
    project, data = found.project, found.config.data
    branch = data_commit.branch_to_move(project, mode, found.by)
    added = {name: str(path) for name, path in changes.items() if path is not None}
    pinned = run_step(
        project,
        PIN,
        {
            "root": str(project.root),
            "home": str(project.home),
            "dvc_file": data.dvc_file,
            "folder": data.path,
            "added": added,
            "removed": [name for name, path in changes.items() if path is None],
            "leaving": [name for name in changes if name in there],
        },
        threads=1,
        progress=progress,
    )
    commit = data_commit.make_commit(
        project, parent, data.dvc_file, pinned["text"], found.by, reason
    )
    change = Change(
        mode="direct" if mode == "direct" else "branch",
        branch=branch,
        parent=parent,
        commit=commit,
        dvc_file=data.dvc_file,
        text=pinned["text"],
        folder=data.path,
        added=pinned["md5s"],
        before={name: there[name] for name in changes if name in there},
        draft=data_commit.relative_draft(project, draft) if draft else None,
        drafted=data_commit.draft_hash(draft) if draft else "",
    )
    data_commit.carry_out(project, change)
    name = branch.removeprefix("refs/heads/")
    if mode == "direct":
        return f"{found.model}: published on {name} as {commit[:12]}"
    return (
        f"{found.model}: committed to the branch {name} as {commit[:12]}; merge it to use "
        "it. Of several changes merge one, then make the others again"
    )


def versions(project: Project, model: str) -> list[Version]:
    """The latest versions of a model's data, the newest first. UserError without git."""
    data_commit.recover(project)
    found = data_draft.place(project, model, "")
    return [*islice(_versions(found), SHOWN_VERSIONS)]


def _versions(found: Place) -> Iterator[Version]:
    project, data = found.project, found.config.data
    told = git(project.root, "log", "-z", FACTS, "--", data.dvc_file)
    now = digest(data_draft.pinned(found))
    held: Version | None = (
        None  # its predecessor may have the same data, and be the one that counts
    )
    marked = False
    facts = told.split("\0")
    for entry in zip(*(facts[start::4] for start in range(4)), strict=False):
        if (one := _version(found, *entry)) is None:
            continue
        if held and held.data_hash != (one.data_hash or None):
            yield held
            marked = marked or held.current
        held = replace(one, current=one.data_hash == now and not marked)
    if held:
        yield held


def _version(found: Place, commit: str, when: str, by: str, reason: str) -> Version | None:
    """The data of a commit; None where its .dvc file does not name them."""
    project, data = found.project, found.config.data
    output, prefix = dvc_versions.place_of(project, data.dvc_file, data.path)
    text = git(project.root, "show", f"{commit}:./{data.dvc_file}", check=False)
    if (md5 := _md5(text, Path(output.path).name)) is None:
        return None
    try:
        listed = dvc_files.listing(project, replace(output, md5=md5))
        files = dvc_versions.files_below(prefix, listed)
    except UserError:
        files = None
    known = digest(files) if files is not None else ""
    count = None if files is None else len(files)
    by, reason = (printable(one, SHOWN_TEXT) for one in (by, reason))
    return Version(commit, when, by, reason, count, known, md5, False)


def _md5(text: str, name: str) -> str | None:
    """The MD5 that a .dvc file of an earlier commit gives for its output `name`."""
    try:
        outs = yaml.safe_load(text)["outs"]
        return next(one["md5"] for one in outs if Path(one["path"]).name == name)
    except (*dvc_files.MALFORMED, StopIteration):
        return None


def go_back(
    project: Project, model: str, version: str, by: str, reason: str, progress: Progress
) -> str:
    """Publish the data of an earlier version once more; the line that tells where it is.

    `version` is the beginning of its commit. UserError when there is none of this name, when it is
    the data of now, or when its files are neither in DVC's cache nor in a remote.
    """
    found = data_draft.place(project, model, by)
    reason = _reason(reason)
    with _recovered(project) as said:
        wanted = _named(found, version)
        parent, mode = _require_clean(found)
        there = data_draft.pinned(found)
        if not wanted.data_hash:
            raise UserError(
                f"the list of files of {wanted.commit[:12]} is not on this machine; run `dvc fetch "
                "--all-commits` in the project, which fetches it from a remote"
            )
        if wanted.data_hash == digest(there):
            raise UserError(f"{model} has the data of {wanted.commit[:12]} already")
        with temporary_folder(project, project.home / "jobs") as folder:
            arguments = {
                "root": str(project.root),
                "home": str(project.home),
                "dvc_hash": wanted.dvc_hash,
                "data_hash": wanted.data_hash,
                "path": found.config.data.path,
                "output": str(folder),
            }
            run_step(project, EXPORT, arguments, threads=1, progress=progress)
            changes: dict[str, Path | None] = dict.fromkeys(there)
            for path in folder.rglob("*"):
                if not path.is_file():
                    continue
                name = path.relative_to(folder).as_posix()
                if there.get(name) == dvc_files.md5_of(path):
                    del changes[name]
                else:
                    changes[name] = path
            told = _carry_out(found, parent, mode, there, changes, reason, progress, None)
            return "\n".join([*said, told])


def _named(found: Place, version: str) -> Version:
    """A commit of this checkout's history that names the model's data, by its beginning."""
    root = found.project.root
    if COMMIT.fullmatch(version):
        told = git(root, "log", "-1", "-z", FACTS, f"{version}^{{commit}}", "--", check=False)
        entry = told.strip("\0").split("\0")
        inside = git(root, "merge-base", entry[0], "HEAD", check=False).strip() == entry[0] != ""
        if inside and len(entry) == 4 and (one := _version(found, *entry)):
            return one
    raise UserError(
        f"{found.model} has no version {version!r} of its data; `adire data versions "
        f"{found.model}` lists them"
    )
