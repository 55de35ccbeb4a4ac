"""The last step of a change of the data: a commit that changes one .dvc file, and data/ with it.

The commit is made of git's objects alone, so that the checkout is untouched until `finish`. Before
that step a journal is written (<home>/drafts/publishing.json). Whoever is killed in it leaves the
journal, by which `recover` completes the step; where the checkout has moved on meanwhile, or the
step is refused, what was done is taken back. All of it happens under the lock "dvc".

Direct: the data's files are put in place first, then the branch moves, then the .dvc file and its
entry of the index. A sensor that sees the new .dvc file finds its data there.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Literal

from adire_assets.core.disk import os_error_sentence, writing
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import spelled_as_on_disk
from adire_assets.core.files import read_json, sync, write_json
from adire_assets.core.folders import delete_folder
from adire_assets.core.project import Project
from adire_assets.tracking.dvc import files as dvc_files
from adire_assets.tracking.git import git

JOURNAL = "drafts/publishing.json"
DRAFT = "draft.json"  # in a draft's folder
LOCK = "dvc"  # that of `tracking.dvc.pull`
NOBODY = "adire"
STAGED = ".adire-publishing.tmp"  # in the folder of a file that is being put in place
NEW = "0" * 40  # git: what there is not yet
LISTS = re.compile(r"[0-9a-f]{32}\.dir")
MOVED = "the checkout has changed meanwhile; nothing is published; publish again"


@dataclass(frozen=True)
class Change:
    """What the last step does. `added` and `before`: {file of `folder`: MD5} of what comes and what
    was there, a file in `before` alone goes; `branch` is the whole name of the reference that gets
    `commit`; `draft`: the folder that goes with it, as long as its DRAFT has the hash `drafted`."""

    mode: Literal["direct", "branch"]
    branch: str
    parent: str
    commit: str
    dvc_file: str
    text: str
    folder: str
    added: dict[str, str]
    before: dict[str, str]
    draft: str | None
    drafted: str


def require_committed(project: Project, dvc_file: str, mode: str) -> str:
    """The commit that is checked out. UserError unless `dvc_file` is as it says, with nothing
    staged or unmerged, and for `direct` on a branch."""
    head = git(project.root, "rev-parse", "-q", "--verify", "HEAD^{commit}", check=False).strip()
    if not head:
        raise UserError(
            f"{project.root} is no git checkout with a commit, and a change of the data is one; "
            "run `git init` and commit the project first"
        )
    if changed := git(project.root, "status", "--porcelain=v1", "--", dvc_file).strip():
        raise UserError(
            f"{dvc_file} has changes that are not committed ({' '.join(changed.split())}); commit "
            f"it, or take them back with `git checkout HEAD -- {dvc_file}`"
        )
    if not git(project.root, "ls-tree", "HEAD", "--", dvc_file).strip():
        raise UserError(f"{dvc_file} is not in the commit; run `git add {dvc_file}` and commit it")
    if mode == "direct":
        if not _branch(project):
            raise UserError(
                f"{project.root} has a commit checked out, and no branch that could move on; check "
                "out a branch, or set studio.publish: branch in the fleet file"
            )
        for state in ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"):
            if git(project.root, "rev-parse", "-q", "--verify", state, check=False):
                raise UserError(
                    f"{project.root} is in the middle of a merge ({state}); finish it, or abort it"
                )
    return head


def _branch(project: Project) -> str:
    return git(project.root, "symbolic-ref", "-q", "HEAD", check=False).strip()


def new_branch(project: Project, by: str) -> str:
    """The whole name of a branch data/<who>-<date> that there is not yet. UserError where none can
    be."""
    who = re.sub(r"[^a-z0-9]+", "-", by.casefold())[:40].strip("-") or "somebody"
    known = {*git(project.root, "for-each-ref", "--format=%(refname)", "refs/heads").split("\n")}
    if "refs/heads/data" in known:
        raise UserError(
            "there is a branch named data, beside which git keeps none named data/...; rename it "
            "with `git branch -m data NAME`"
        )
    name = f"refs/heads/data/{who}-{date.today().isoformat()}"
    numbers = (f"{name}{'' if number == 1 else f'-{number}'}" for number in range(1, 1000))
    return next(one for one in numbers if one not in known)


def make_commit(
    project: Project, parent: str, dvc_file: str, text: str, by: str, reason: str
) -> str:
    """A commit after `parent` that changes `dvc_file` alone, by `by` and with the message `reason`;
    no reference leads to it. UserError when it would change nothing."""
    root = project.root
    path = git(root, "rev-parse", "--show-prefix").rstrip("\n") + dvc_file
    blob = git(root, "hash-object", "-w", "--stdin", given=text).strip()
    mode = git(root, "ls-tree", parent, "--", dvc_file).partition(" ")[0] or "100644"
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(root, "read-tree", parent, environment=index)
        entry = ("--add", "--cacheinfo", f"{mode},{blob},{path}")
        git(root, "update-index", *entry, environment=index)
        tree = git(root, "write-tree", environment=index).strip()
    if tree == git(root, "rev-parse", f"{parent}^{{tree}}").strip():
        raise UserError(f"{dvc_file} would stay as it is: there is nothing to publish")
    shown = "".join(c if c.isprintable() and c not in "<>" else " " for c in by)
    name = " ".join(shown.split()).strip(".,;:\"'") or NOBODY
    mail = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-') or NOBODY}@{NOBODY}.invalid"
    author = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": mail}
    if not git(root, "var", "GIT_COMMITTER_IDENT", check=False):  # the account has no identity
        author |= {"GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": mail}
    arguments = ("commit-tree", tree, "-p", parent, "-F", "-")
    return git(root, *arguments, given=f"{reason.strip()}\n", environment=author).strip()


def branch_to_move(project: Project, mode: str, by: str) -> str:
    """The reference that the commit becomes the tip of."""
    return _branch(project) if mode == "direct" else new_branch(project, by)


def carry_out(project: Project, change: Change) -> None:
    """The last step. Call it under the lock, and that of the draft; whoever dies in it leaves the
    journal to `recover`. UserError, with nothing changed, when it is refused or the checkout is not
    that of `change` any more."""
    if change.mode == "direct" and (
        _branch(project) != change.branch
        or require_committed(project, change.dvc_file, change.mode) != change.parent
    ):
        raise UserError(MOVED)
    write_json(project.home / JOURNAL, asdict(change))
    try:
        _complete(project, change)
    except (UserError, OSError) as error:
        _undo(project, change)
        raise _refused(project, error) from error
    _forget(project, change)


def recover(project: Project) -> list[str]:
    """Complete, or take back, the last step of somebody who was killed in it; a line for what was
    done. UserError when git or the disk refuse it."""
    if not (project.home / JOURNAL).is_file():
        return []
    with project.locks.acquire(LOCK):
        return recover_locked(project)


def recover_locked(project: Project) -> list[str]:
    """`recover`, by who holds the lock, and that of no draft."""
    try:
        change = Change(**read_json(project.home / JOURNAL))
    except FileNotFoundError:
        return []
    with ExitStack() as held:
        if change.draft:
            held.enter_context(project.locks.acquire(draft_lock(project.home / change.draft)))
        try:
            return [_recovered(project, change)]
        except OSError as error:
            raise _refused(project, error) from error


def _recovered(project: Project, change: Change) -> str:
    root = project.root
    tip = git(root, "rev-parse", "-q", "--verify", change.branch, check=False).strip()
    what = f"the change of {change.folder} that was being published"
    published = any(_is_in(project, change.commit, one) for one in (tip, "HEAD"))
    if change.mode == "branch":
        if published:
            _forget(project, change)
            return f"{what} is on {change.branch.removeprefix('refs/heads/')}"
        (project.home / JOURNAL).unlink()
        return f"{what} was not published; its draft is still there"
    text = _text(project, change.dvc_file)
    ours = text in (change.text, _committed(project, change.parent, change.dvc_file))
    why = "the checkout has moved on"
    if _branch(project) == change.branch and tip in (change.parent, change.commit) and ours:
        try:
            _complete(project, change)
        except (UserError, OSError) as error:
            why = str(_refused(project, error))
        else:
            _forget(project, change)
            return f"{what} was completed ({change.commit[:12]})"
    elif published:
        lacking = _in_line(project, change)
        _forget(project, change)
        return f"{what} was published ({change.commit[:12]}); the checkout has moved on{lacking}"
    lacking = _undo(project, change)
    return f"{what} was taken back, since {why}; its draft is still there{lacking}"


def _complete(project: Project, change: Change) -> None:
    """All of the last step but `_forget`, of which any part may have been done."""
    root = project.root
    if change.mode == "branch":
        git(root, "update-ref", "-m", "adire data publish", change.branch, change.commit, NEW)
        return
    folder = root / change.folder
    wanted = {**dict.fromkeys(change.before), **change.added}
    if lacking := _bring(project, folder, wanted, change.before) or _unlisted(project, change):
        raise UserError(f"{lacking[0]} is not in DVC's cache any more; publish again")
    if git(root, "rev-parse", change.branch).strip() != change.commit:
        moved = (change.branch, change.commit, change.parent)
        git(root, "update-ref", "-m", "adire data publish", *moved)
    ours = (change.text, _committed(project, change.parent, change.dvc_file))
    if _branch(project) != change.branch or _text(project, change.dvc_file) not in ours:
        raise UserError(MOVED)
    _replace(root / change.dvc_file, change.text.encode())
    git(root, "update-index", "--", change.dvc_file)


def _undo(project: Project, change: Change) -> str:
    """Let nothing of `_complete` be done; what is to be said of files that DVC's cache lacks."""
    root = project.root
    lacking = ""
    if change.mode == "direct":
        if git(root, "rev-parse", "-q", "--verify", change.branch, check=False).strip() == (
            change.commit
        ):
            moved = (change.branch, change.parent, change.commit)
            git(root, "update-ref", "-m", "adire data publish: taken back", *moved)
        if _branch(project) == change.branch and _text(project, change.dvc_file) == change.text:
            before = _committed(project, change.parent, change.dvc_file)
            _replace(root / change.dvc_file, before.encode())
        lacking = _in_line(project, change)
    (project.home / JOURNAL).unlink()
    return lacking


def _refused(project: Project, error: Exception) -> UserError:
    if isinstance(error, OSError):
        return UserError(os_error_sentence(error, project.root))
    return UserError(str(error))


def _is_in(project: Project, commit: str, tip: str) -> bool:
    """Whether a commit is `tip` or before it."""
    return bool(tip) and (
        git(project.root, "merge-base", commit, tip, check=False).strip() == commit
    )


def _forget(project: Project, change: Change) -> None:
    """What was uploaded since the change was made stays."""
    if change.draft and draft_hash(project.home / change.draft) == change.drafted:
        delete_folder(project.home / change.draft)
    (project.home / JOURNAL).unlink()


def draft_lock(folder: Path) -> str:
    """The lock of a draft in <home>/drafts/<model>/<person>."""
    return f"draft-{folder.parent.name}-{folder.name}"


def draft_hash(folder: Path) -> str:
    """That of what is known of a draft; "" where there is none."""
    try:
        return sha256((folder / DRAFT).read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def _in_line(project: Project, change: Change) -> str:
    """Make what was done to the data undone, as far as the .dvc file does not say it; what is to be
    said of files that DVC's cache lacks."""
    back = {**dict.fromkeys(change.added), **change.before}
    now = _pinned(project, change)
    wanted = {name: now.get(name) for name in back}
    (project.root / change.dvc_file).with_name(STAGED).unlink(missing_ok=True)
    known = {**change.before, **change.added}
    lacking = _bring(project, project.root / change.folder, wanted, known)
    return f"; {lacking[0]} is not in DVC's cache any more, run `adire pull`" if lacking else ""


def _pinned(project: Project, change: Change) -> Mapping[str, str]:
    from adire_assets.tracking.dvc import versions

    output, prefix = versions.place_of(project, change.dvc_file, change.folder)
    return versions.files_below(prefix, dvc_files.listing(project, output))


def _unlisted(project: Project, change: Change) -> list[str]:
    """The list of files that the change brings, where DVC's cache lacks it."""
    cache = dvc_files.local_stores(project)[0]
    before = _committed(project, change.parent, change.dvc_file)
    lists = [one for one in LISTS.findall(change.text) if one not in before]
    return [one for one in lists if not dvc_files.object_file(cache, one).is_file()]


def _bring(
    project: Project, folder: Path, wanted: Mapping[str, str | None], known: Mapping[str, str]
) -> list[str]:
    """Let each file of `wanted` have the content of this MD5 (None: be gone); one whose content is
    neither this nor that in `known` is somebody's own, and stays. The names that DVC's cache lacks,
    which stay as they are."""
    cache = dvc_files.local_stores(project)[0]
    lacking = []
    with writing(folder):
        for name, md5 in wanted.items():
            path = spelled_as_on_disk(folder / name)
            now = dvc_files.md5_of(path) if path.is_file() else None
            if now == md5 or (now is not None and now != known.get(name)):
                continue
            if md5 is None:
                path.unlink()
                with suppress(OSError):  # others are in it
                    path.parent.rmdir()
                continue
            held = dvc_files.object_file(cache, md5)
            if not held.is_file():
                lacking.append(name)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, held.read_bytes())
        for staged in folder.rglob(STAGED) if folder.is_dir() else ():
            staged.unlink()
    return lacking


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole; what a killed process leaves is found by its name, and goes."""
    staged = path.with_name(STAGED)
    with writing(path):
        staged.write_bytes(content)
        sync(staged)
        staged.replace(path)


def _text(project: Project, dvc_file: str) -> str:
    try:
        return (project.root / dvc_file).read_text(encoding="utf-8")
    except OSError:
        return ""


def _committed(project: Project, commit: str, dvc_file: str) -> str:
    return git(project.root, "show", f"{commit}:./{dvc_file}", check=False)


def relative_draft(project: Project, folder: Path) -> str:
    """A draft's folder as the journal names it."""
    return os.path.relpath(folder, project.home)
