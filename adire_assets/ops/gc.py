"""`adire gc`: deletes what nothing needs, and of what only saves time what is beyond its limit.

    collect_garbage(project, keep=3, dry_run=True)    one line for each thing, and how much it is

Whatever is deleted is locked from the decision to the deletion: an artifact by
`Store.delete_unheld`, what a training uses by the locks of the devices, a scratch folder by its own
lock, a base in a slot by the lock of installations. What is in use stays, and is reported.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adire_assets.config.fleet import load_fleet
from adire_assets.config.home import load_home
from adire_assets.core import devices, folders
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import KEY_DIGITS, Artifact, Store
from adire_assets.gates import approvals
from adire_assets.serving import record, release
from adire_assets.serving.fleet import slot
from adire_assets.tracking import registry
from adire_assets.tracking.backend import own_database

GIGABYTE = 10**9
REFERENCE = ("model", "kind", "key", "content_hash")
IN_USE = (
    "cache and checkpoints: left as they are, since a training or an evaluation uses them; run "
    "`adire gc` again when it has ended"
)
# What goes, in the words of the terminal, and how many bytes that frees (None: it stays).
Freed = tuple[str, float | None]


def collect_garbage(project: Project, keep: int, dry_run: bool) -> Iterator[str]:
    """Delete what nothing needs; a line for each deleted thing, with its size.

    Kept are the artifacts of these releases: the live ones and the `keep` before them, those in a
    rollout, MLflow's champion and challenger, those that wait for approval, and the latest `keep`.
    Kept too are the latest `keep` artifacts of each kind, those that the latest materializations
    and the running ones refer to, and those that a process reads. Of the others `Store.remember`
    keeps what `adire reproduce` needs. UserError when `keep` is below 1.
    """
    if keep < 1:
        raise UserError("--keep must be at least 1")
    freed = 0.0
    for what, size in _found(project, keep, dry_run):
        freed += size or 0
        yield what if size is None else f"{what} ({_megabytes(size)})"
    yield f"{_megabytes(freed)} {'would be' if dry_run else 'were'} freed"


def _found(project: Project, keep: int, dry_run: bool) -> Iterator[Freed]:
    """Everything, gone as soon as the next is asked for; first what needs no space for that."""
    limits, store = load_home(project), Store(project)
    for folder in _left_by_the_dead(project, store):
        yield _gone(project, folder, dry_run)
    with ExitStack() as held:
        names = (*devices.locks_of("cpu"), *devices.locks_of("cuda"))
        cache, checkpoints = project.home / "cache", _work_folders(project, checkpoints=True)
        if not cache.is_dir() and not checkpoints:
            pass
        elif all(held.enter_context(project.locks.try_acquire(name)) for name in names):
            files = [path for path in cache.rglob("*") if path.is_file()]
            doomed = beyond(files, limits.maximum_cache_gigabytes * GIGABYTE)
            size = sum(map(_size, doomed))
            for path in () if dry_run else doomed:
                path.unlink(missing_ok=True)
            if doomed:
                yield f"cache: {len(doomed)} of {len(files)} files", size
            for folder in beyond(checkpoints, limits.maximum_checkpoints_gigabytes * GIGABYTE):
                yield _gone(project, folder, dry_run)
        else:
            yield IN_USE, None
    with project.locks.acquire(release.INSTALL_LOCK):
        for folder in _unused_bases(project):
            yield _gone(project, folder, dry_run)
    for artifact, folder in store.delete_unheld(
        lambda: sorted_out(project, store, keep)[1], dry_run
    ):
        yield f"{artifact.model}/{artifact.kind} {artifact.key[:12]}", _size(folder)


# --- artifacts -----------------------------------------------------------------------------------


def sorted_out(project: Project, store: Store, keep: int) -> tuple[list[Artifact], list[Artifact]]:
    """(the artifacts that something needs, those that go unless a process reads them)."""
    made = {artifact.key: (artifact, artifact.manifest) for artifact in store.artifacts()}
    kinds: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for artifact, manifest in made.values():
        kind = kinds.setdefault((artifact.model, artifact.kind), [])
        kind.append((manifest["created"], artifact.key))
    wanted = [key for kind in kinds.values() for _, key in sorted(kind)[-keep:]]
    for model in {model for model, _ in kinds}:
        for found in _kept_releases(project, model, keep):
            wanted += _keys_in(asdict(found))
    records = project.records
    for name in (*records.list("deployments"), *records.list("references")):
        room, run, *_ = name.split("/")
        if room == "deployments" or run == "latest" or project.locks.is_held(f"run-{run}"):
            wanted += _keys_in(records.read(name).value)
    needed: set[str] = set()
    while wanted:
        key = wanted.pop()
        if key in made and key not in needed:
            needed.add(key)
            wanted += _keys_in(made[key][1])
    all_of_them = [artifact for artifact, _ in made.values()]
    return (
        [one for one in all_of_them if one.key in needed],
        [one for one in all_of_them if one.key not in needed],
    )


def _kept_releases(project: Project, model: str, keep: int) -> list[release.ReleaseRecord]:
    records = {one.number: one for one in release.records(project, model)}
    numbers = set(sorted(records)[-keep:])
    database = own_database(project)
    if database is None or database.exists():  # who makes room has none for a new database
        numbers |= set(registry.aliases(project, model).values())
    plan = record.read_plan(project, model)  # of targets, too, that have no record yet
    for target in {*record.targets(project, model), *(plan.steps if plan else ())}:
        state = record.read(project, target, model)
        numbers |= {*state.slots.values(), *filter(None, [state.live])}
        numbers |= {entry["number"] for entry in state.history[-keep - 1 :]}
        if coming := state.rollout:
            numbers |= {coming.number, *filter(None, [coming.origin])}
    numbers |= {one.number for one in approvals.asked_for(project, model)}
    return [records[number] for number in numbers & set(records)]


def _keys_in(value: Any) -> Iterator[str]:
    """The key of every reference to an artifact that a manifest holds, at whatever depth."""
    if isinstance(value, Mapping) and value.keys() >= set(REFERENCE):
        yield value["key"]
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _keys_in(inner)


# --- folders -------------------------------------------------------------------------------------


def _left_by_the_dead(project: Project, store: Store) -> Iterator[Path]:
    """What killed processes left: half artifacts, scratch folders, folders of jobs."""
    left = [*store.unfinished(), *((path, path.name) for path in _work_folders(project))]
    for folder, maker in left:
        with ExitStack() as held:
            if maker is None or held.enter_context(project.locks.try_acquire(maker)):
                yield folder
    for parent in (project.home / "jobs", project.home / "fleet" / "scratch"):
        with folders.abandoned_folders(project, parent) as found:
            yield from found


def _work_folders(project: Project, *, checkpoints: bool = False) -> list[Path]:
    """Those of commands, or those of trainings, which are named by a recipe key."""
    named = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}")
    found = [path for path in sorted((project.home / "work").glob("*")) if path.is_dir()]
    return [path for path in found if bool(named.fullmatch(path.name)) is checkpoints]


def beyond(paths: Iterable[Path], limit: float) -> list[Path]:
    """Of files and folders those that were used least recently, so that `limit` bytes are left;
    and those whose writer was killed, since nobody writes while the device is ours."""
    kept, doomed = 0.0, []
    for path in sorted(paths, key=_last_use, reverse=True):
        kept += _size(path)
        if kept > limit or path.suffix == ".tmp":
            doomed.append(path)
    return doomed


def _unused_bases(project: Project) -> Iterator[Path]:
    """Copies of bases that no release in their slot refers to."""
    ours = {
        record.base_model["content_hash"][: release.BASE_DIGITS]
        for model in {name.split("/")[1] for name in project.records.list("releases")}
        for record in release.records(project, model)
    }
    # All slots, also those that the fleet file no longer has.
    slots = {path for path in (project.home / "fleet" / "slots").glob("*/*") if path.is_dir()}
    for target, settings in load_fleet(project).targets.items():
        slots |= {slot.folder(project, target, *named) for named in settings.slots.items()}
    for place in sorted(slots):
        for folder in release.unused_bases(place):
            # A mount may be another project's as well.
            local = place.is_relative_to(project.home)
            if local or folder.name.strip(".").removesuffix(".tmp") in ours:
                yield folder


def _gone(project: Project, folder: Path, dry_run: bool) -> Freed:
    """Delete a folder that the caller has alone."""
    inside = folder.is_relative_to(project.home)
    freed = str(folder.relative_to(project.home) if inside else folder), _size(folder)
    if not dry_run:
        with suppress(FileNotFoundError):  # who left it has come back, and tidied up
            shutil.rmtree(folder)
    return freed


def _states(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of the files in a folder, those that are still there."""
    for one in [path] if path.is_file() else path.rglob("*"):
        with suppress(FileNotFoundError):
            if one.is_file():
                yield one.stat()


def _size(path: Path) -> float:
    """Bytes on the disk; a file with several names counts for each in part."""
    return sum(state.st_size / state.st_nlink for state in _states(path))


def _last_use(path: Path) -> float:
    return max((max(state.st_atime, state.st_mtime) for state in _states(path)), default=0.0)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
