"""`adire backup` and `adire restore`: a project's home as a folder of plain files, and back.

    <destination>/backup.json    {"format", "created", "code", "files": {path: {"size", "sha256"}},
                                 "digest": the SHA-256 of "files"}
    <destination>/home/...       what is kept, laid out as in the home

Kept are the records (all small files: what is live, releases, quarantine, approvals, references,
measurements), the databases, what MLflow keeps, all manifests, and the artifacts that
`adire gc --keep 1` would keep: what serves, what served before, and what they are made of. What can
be made again is left out (caches, work, what processes run from), and so are secrets.

A backup is consistent while the product runs. First, artifacts are kept from `adire gc`. The
records are read until two readings in a row agree, so they are those of one moment. The databases
come last, by SQLite's own online copy, so that every release of a record is registered there.

Where the home lies is written nowhere: databases name it by a token, and `restore` puts the new
place in.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from adire_assets.core import lineage
from adire_assets.core.disk import writing
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import is_content
from adire_assets.core.files import sync
from adire_assets.core.folders import exclusive_folder
from adire_assets.core.project import Project
from adire_assets.core.store import NOT_CONTENT, Artifact, Store, write_json
from adire_assets.gates.clean_commit import file_list
from adire_assets.ops.databases import BESIDE, copy_database, is_database, replace_texts
from adire_assets.ops.gc import sorted_out
from adire_assets.serving import record
from adire_assets.serving.fleet import orphans
from adire_assets.serving.state import DeploymentRecord

Progress = Callable[[str], None]
Files = dict[str, dict[str, Any]]

FORMAT = 1
LIST = "backup.json"
KEEP = 1
# What is made again when it is missing, or is of the processes of this machine alone.
MADE_AGAIN = ("cache", "work", "jobs", "md5", "fleet", "locks")
HISTORY = ("mlartifacts", "dagster", "search", "reports", "manifests")  # large, and only grows
# By its file there, a run of MLflow that was under way is known to have been killed.
MARKS = "locks/mlflow-run-*.lock"
SECRETS = ("rating_secret", "private.pem", "answer_keys.json")
PRIVATE = ("feedback",)  # who said what is nobody else's
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
READINGS = 200
HOME, HOME_URI = "@ADIRE_HOME@", "@ADIRE_HOME_URI@"


def backup(project: Project, destination: Path, progress: Progress) -> None:
    """Write the home to the new folder `destination`, whole or not at all.

    UserError when the destination exists or lies in the home, when there is no home, when an
    artifact or a database in it is damaged, and when the disk is full; nothing is left then.
    """
    destination = destination.absolute()
    if destination.exists() or destination.is_symlink():
        raise UserError(f"{destination} exists already; name a new folder")
    if not project.home.is_dir():
        raise UserError(f"there is nothing to back up: {project.home} does not exist")
    if destination.resolve().is_relative_to(project.home.resolve()):
        raise UserError(f"{destination} lies in {project.home}, which it is to be a copy of")
    with _made_whole(destination) as folder:
        files, left_out = _Collection(project, folder / "home", progress).collect()
        about = {
            "format": FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": lineage.code_identity(project.root),
        }
        write_json(folder / LIST, {**about, "files": files, "digest": lineage.digest(files)})
    secrets = ", ".join(["the key that signs tokens (auth/private.pem)", *left_out])
    progress(f"not in it, for you to keep: {secrets}; git keeps configs/ and DVC the data")
    size = sum(file["size"] for file in files.values())
    progress(f"backup: {destination} has {len(files)} files, {size / 1e6:.1f} MB")


def restore(project: Project, source: Path, progress: Progress) -> None:
    """Make the home again from a backup, whole or not at all.

    UserError when the home holds something or its fleet runs, and when the backup is incomplete or
    damaged, with the first files that are; nothing is left then.
    """
    listed = _listed(source)
    home = project.home.resolve()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise UserError(f"{home} is not empty; move it away, then restore")
    if home.is_mount():
        raise UserError(f"{home} is a mount point; set ADIRE_HOME to a new folder below it")
    if running := orphans.running_programs(project):
        raise UserError(f"{', '.join(sorted(running))} of this home runs; stop it: `adire down`")
    with _made_whole(home) as folder:
        places = {name: folder / PurePosixPath(name).relative_to("home") for name in listed}
        damaged = [name for name, path in places.items() if not _same(source, name, path, listed)]
        if damaged:
            raise UserError(
                f"{source} is damaged or incomplete: {file_list(damaged)} is not what was backed "
                "up; restore another backup"
            )
        for path in places.values():
            if is_database(path):
                replace_texts(path, {HOME: str(home), HOME_URI: home.as_uri()})
            if path.is_relative_to(folder / "store"):
                path.chmod(0o444)
    for state in _live(project):
        progress(
            f"release {state.live} of {state.model} is live on {state.target}; `adire up` serves it"
        )
    progress(f"restore: {home} has the {len(listed)} files of {source}")


# --- what is kept --------------------------------------------------------------------------------


class _Collection:
    """The files of a home on their way into the folder `target` of a backup."""

    def __init__(self, project: Project, target: Path, progress: Progress) -> None:
        self.project, self.home, self.target = project, project.home, target
        self.progress = progress
        self.files: Files = {}
        self.left_out: list[str] = []

    def collect(self) -> tuple[Files, list[str]]:
        """({path in the backup: {size, sha256}}, the secrets that stay out)."""
        store = Store(self.project)
        for artifact in store.artifacts():
            self.project.storage.hold(artifact.name)
        records = self._records()
        for name, content in records.items():
            self._keep(name, partial(Path.write_bytes, data=content))
        # Releases come and go meanwhile: what the records in the backup need counts as well.
        kept = Project(self.project.root, self.target)
        now, then = (sorted_out(project, store, KEEP)[0] for project in (self.project, kept))
        needed = list({artifact.key: artifact for artifact in (*then, *now)}.values())
        keys = {artifact.key for artifact in needed}
        others = [artifact for artifact in store.artifacts() if artifact.key not in keys]
        self._tell_what_lacks(kept, records, keys)
        self.progress(f"{len(self.files)} records; copying {len(needed)} artifacts")
        for artifact in needed:
            self._artifact(artifact)
        for artifact in others:
            for path in (artifact.path / "manifest.json", *_walk(artifact.path / "recipe")):
                inside = path.relative_to(artifact.path).as_posix()
                self._add(path, f"manifests/{artifact.name}/{inside}")
        paths = [path for top in HISTORY for path in _walk(self.home / top)]
        paths += [path for path in self.home.glob("*") if path.is_file() and is_database(path)]
        for path in (*paths, *self.home.glob(MARKS)):
            self._add(path, path.relative_to(self.home).as_posix())
        if os.environ.get("MLFLOW_TRACKING_URI"):
            self.progress("MLFLOW_TRACKING_URI names another MLflow: back that up as well")
        return dict(sorted(self.files.items())), self.left_out

    def _records(self) -> dict[str, bytes]:
        """{name: content} of the small files of the home, as all of them were at one moment."""
        before = None
        for _ in range(READINGS):
            now = {}
            for path in _walk(self.home, leave_out=(*MADE_AGAIN, *HISTORY, "store")):
                name = path.relative_to(self.home).as_posix()
                if _is_secret(path):
                    self.left_out = sorted({*self.left_out, name})
                elif not is_database(path):
                    with suppress(FileNotFoundError):  # and the next reading differs
                        now[name] = path.read_bytes()
            if now == before:
                return now
            before = now
        raise UserError(f"the records in {self.home} change all the time; try again")

    def _tell_what_lacks(
        self, kept: Project, records: Mapping[str, bytes], there: set[str]
    ) -> None:
        for state in _live(kept):
            model, number = state.model, state.live
            found = json.loads(records.get(f"releases/{model}/{number}.json", b"{}"))
            for part in ("repository", "base_model"):
                if found.get(part, {}).get("key") not in there:
                    self.progress(
                        f"release {number} of {model} is live, but its {part} is not in the store: "
                        "what is restored from this backup cannot serve it"
                    )

    def _keep(self, name: str, write: Callable[[Path], Any]) -> str:
        """Put a file of the home into the backup; its SHA-256."""
        private = PurePosixPath(name).parts[0] in PRIVATE
        facts = self.files[f"home/{name}"] = _written(self.target / name, write, private)
        return facts["sha256"]

    def _add(self, source: Path, name: str) -> None:
        if _is_secret(source):
            self.left_out.append(name)
            return
        copy = self._database if is_database(source) else shutil.copyfile
        try:
            self._keep(name, partial(copy, source))
        except FileNotFoundError:  # a file of the moment
            (self.target / name).unlink(missing_ok=True)

    def _database(self, source: Path, target: Path) -> None:
        copy_database(source, target)
        replace_texts(target, {self.home.as_uri(): HOME_URI, str(self.home): HOME})

    def _artifact(self, artifact: Artifact) -> None:
        """UserError when it is not what its manifest says."""
        content, then = {}, artifact.manifest["files"]
        for path in _walk(artifact.path):
            inside = path.relative_to(artifact.path).as_posix()
            if not is_content(inside) and inside not in then:  # left by a desktop or editor
                continue
            copied = self._keep(f"store/{artifact.name}/{inside}", partial(shutil.copyfile, path))
            if PurePosixPath(inside).parts[0] not in NOT_CONTENT:
                content[inside] = copied
        if changed := sorted(n for n in {*then, *content} if then.get(n) != content.get(n)):
            raise UserError(
                f"{artifact.path} was changed after it was made ({file_list(changed)}), and is no "
                f"use in a backup; delete the folder and materialize {artifact.model}/"
                f"{artifact.kind}"
            )


def _live(project: Project) -> Iterator[DeploymentRecord]:
    """The deployment records with a live release."""
    places = (name.split("/") for name in project.records.list("deployments"))
    for target in sorted({place[1] for place in places if len(place) == 3}):  # others are plans
        yield from (one for one in record.read_all(project, target) if one.live is not None)


# --- what a backup is ----------------------------------------------------------------------------


def _listed(source: Path) -> Files:
    """The files that a backup says it has. UserError when it is none, or says nothing of use."""
    if not source.is_dir():
        raise UserError(f"{source} is no folder; name one that `adire backup` has made")
    path = source / LIST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        files, digest, version = found["files"], found["digest"], found["format"]
    except FileNotFoundError:
        raise UserError(f"{source} has no {LIST}: it is no backup, or was never finished") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore another backup") from None
    if version != FORMAT:
        raise UserError(
            f"{path} has the format {version}, and this version of Adire Assets reads {FORMAT}; "
            "restore it with the version that made it"
        )
    if lineage.digest(files) != digest:
        raise UserError(f"{path} is damaged: its list is not the one that was written")
    for name in files:
        parts = PurePosixPath(name).parts
        if len(parts) < 2 or parts[0] != "home" or ".." in parts or "\\" in name:
            raise UserError(f"{path} is damaged: {name!r} leaves the home")
    return dict(files)


def _same(source: Path, name: str, target: Path, listed: Files) -> bool:
    """Copy a file out of a backup; whether it is the one that was put in."""
    path = source / name
    if not path.is_file() or path.resolve() != source.resolve() / name:  # gone, or a link
        return False
    private = PurePosixPath(name).parts[1] in PRIVATE  # below home/
    return _written(target, partial(shutil.copyfile, path), private) == listed[name]


# --- files ---------------------------------------------------------------------------------------


@contextmanager
def _made_whole(final: Path) -> Iterator[Path]:
    """A folder to fill, which is called `final` in the end; when that fails, nothing is left."""
    unfinished = final.with_name(f".{final.name}.unfinished")
    busy = f"another process is making {final} just now"
    with writing(unfinished), exclusive_folder(unfinished, busy):
        if not unfinished.is_dir():
            raise UserError(busy)  # it was finished before it could be locked
        try:
            for left in unfinished.iterdir():  # by one that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield unfinished
            unfinished.rename(final)
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise UserError(f"{final} has come into being meanwhile; nothing is done") from None
            raise


def _walk(folder: Path, leave_out: tuple[str, ...] = ()) -> Iterator[Path]:
    """The files below a folder, without links and what is being written."""
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in leave_out]
        folders.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            temporary = path.name.startswith(".") and path.suffix in (".tmp", ".new")
            passing = temporary or path.name.endswith(BESIDE)
            if not passing and path.is_file() and not path.is_symlink():
                yield path


def _written(path: Path, write: Callable[[Path], Any], private: bool) -> dict[str, Any]:
    """Write a file onto the disk itself, `private` for its user alone; its size and SHA-256."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if private:
            path.touch(mode=0o600)
        write(path)
        sync(path)
    return {"size": path.stat().st_size, "sha256": lineage.file_digest(path)}


def _is_secret(path: Path) -> bool:
    if path.name in SECRETS:
        return True
    return path.suffix in (".pem", ".key") and bool(PRIVATE_KEY.search(path.read_bytes()))
