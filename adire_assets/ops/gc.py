"""`adire gc`: deletes what nothing needs, and of what only saves time what is beyond its limit.

    collect_garbage(project, keep=3, dry_run=True)    one line for each thing, and how much it is

Whatever is deleted is locked from the decision to the deletion: an artifact by
`Store.delete_unheld`, what a training uses by the locks of the devices, a scratch folder by its own
lock, a base in a slot by the lock of installations. What is in use stays, and is reported.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
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


@dataclass(frozen=True)
class Freed:
    """What goes, in the words of the terminal, and how many bytes that frees."""

    what: str
    size: float


def collect_garbage(project: Project, keep: int, dry_run: bool) -> Iterator[str]:
    """Delete what nothing needs; a line for each thing, and how much space it was.

    Of the artifacts are kept: what the live releases and the `keep` before them, those on their
    way, MLflow's champion and challenger, those that wait for an approval and the latest `keep`
    releases are made of; the latest `keep` of each kind; what the latest materializations and the
    running ones refer to; what a process reads; and of the others what `Store.remember` keeps, by
    which `adire reproduce` makes them again. UserError when `keep` is below 1.
    """
    if keep < 1:
        raise UserError("--keep must be at least 1")
    limits = load_home(project)
    freed = 0.0
    for collect in (
        # First what needs no space to be deleted.
        lambda: _unfinished(project, dry_run),
        lambda: _what_saves_time(
            project,
            int(limits.maximum_cache_gigabytes * GIGABYTE),
            int(limits.maximum_checkpoints_gigabytes * GIGABYTE),
            dry_run,
        ),
        lambda: _bases_in_slots(project, dry_run),
        lambda: _artifacts(project, keep, dry_run),
    ):
        for one in collect():
            if isinstance(one, Freed):
                freed += one.size
                yield f"{one.what} ({_megabytes(one.size)})"
            else:
                yield one
    yield f"{_megabytes(freed)} {'would be' if dry_run else 'were'} freed"


# --- artifacts -----------------------------------------------------------------------------------


def _artifacts(project: Project, keep: int, dry_run: bool) -> Iterator[Freed]:
    store = Store(project)
    needless = partial(_needless, project, store, keep)
    for artifact, folder in store.delete_unheld(needless, dry_run):
        yield _freed(folder, _told(artifact))


def _needless(project: Project, store: Store, keep: int) -> list[Artifact]:
    return sorted_out(project, store, keep)[1]


def _told(artifact: Artifact) -> str:
    return f"{artifact.model}/{artifact.kind} {artifact.key[:12]}"


def sorted_out(project: Project, store: Store, keep: int) -> tuple[list[Artifact], list[Artifact]]:
    """(the artifacts that something needs, those that only a reader saves from `adire gc`)."""
    made = {artifact.key: (artifact, artifact.manifest) for artifact in store.artifacts()}
    wanted: list[str] = []
    kinds: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for artifact, manifest in made.values():
        kind = kinds.setdefault((artifact.model, artifact.kind), [])
        kind.append((manifest["created"], artifact.key))
    for kind in kinds.values():
        wanted += [key for _, key in sorted(kind)[-keep:]]
    for model in {model for model, _ in kinds}:
        wanted += [
            reference["key"]
            for found in _kept_releases(project, model, keep)
            for reference in references_in(asdict(found))
        ]
    records = project.records
    for name in (*records.list("deployments"), *records.list("references")):
        room, run, *_ = name.split("/")
        if room == "deployments" or run == "latest" or project.locks.is_held(f"run-{run}"):
            wanted += [found["key"] for found in references_in(records.read(name).value)]
    needed: set[str] = set()
    while wanted:
        key = wanted.pop()
        if key in made and key not in needed:
            needed.add(key)
            wanted += [reference["key"] for reference in references_in(made[key][1])]
    found = [artifact for artifact, _ in made.values()]
    return [one for one in found if one.key in needed], [o for o in found if o.key not in needed]


def _kept_releases(project: Project, model: str, keep: int) -> list[release.ReleaseRecord]:
    records = {one.number: one for one in release.records(project, model)}
    numbers = set(sorted(records)[-keep:])
    database = own_database(project)
    if database is None or database.exists():  # who makes room has none for a new database
        numbers |= set(registry.aliases(project, model).values())
    plan = record.read_plan(project, model)  # of targets, too, that have no record yet
    for target in {*record.targets(project, model), *(plan.steps if plan else ())}:
        state = record.read(project, target, model)
        numbers |= set(state.slots.values()) | ({state.live} if state.live else set())
        numbers |= {entry["number"] for entry in state.history[-keep - 1 :]}
        if coming := state.rollout:
            numbers |= {coming.number, *filter(None, [coming.origin])}
    numbers |= {one.number for one in approvals.asked_for(project, model)}
    return [records[number] for number in numbers & set(records)]


def references_in(value: Any) -> Iterator[dict[str, str]]:
    """Every reference to an artifact that a manifest holds, at whatever depth."""
    if isinstance(value, Mapping):
        if value.keys() >= set(REFERENCE):
            yield {name: value[name] for name in REFERENCE}
        else:
            for inner in value.values():
                yield from references_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references_in(inner)


def _unfinished(project: Project, dry_run: bool) -> Iterator[Freed]:
    """What killed processes left: half artifacts, scratch folders, folders of jobs."""
    for folder, maker in Store(project).unfinished():
        if maker is None:
            yield from _gone(folder, project, dry_run)
            continue
        with project.locks.try_acquire(maker) as ours:
            if ours:
                yield from _gone(folder, project, dry_run)
    for folder in _folders(project.home / "work"):
        if not _is_checkpoint(folder):
            with project.locks.try_acquire(folder.name) as ours:
                if ours:
                    yield from _gone(folder, project, dry_run)
    for parent in (project.home / "jobs", project.home / "fleet" / "scratch"):
        with folders.abandoned_folders(project, parent) as left:
            for folder in left:
                yield from _gone(folder, project, dry_run)


# --- what only saves time --------------------------------------------------------------------


def _what_saves_time(
    project: Project, cache_bytes: int, checkpoint_bytes: int, dry_run: bool
) -> Iterator[Freed | str]:
    """Caches and checkpoints; trainings and evaluations use them under a device's lock."""
    cache, checkpoints = project.home / "cache", _checkpoints(project)
    if not cache.is_dir() and not checkpoints:
        return
    with ExitStack() as held:
        names = (*devices.locks_of("cpu"), *devices.locks_of("cuda"))
        if not all(held.enter_context(project.locks.try_acquire(name)) for name in names):
            yield (
                "cache and checkpoints: left as they are, since a training or an evaluation uses "
                "them; run `adire gc` again when it has ended"
            )
            return
        files = [path for path in cache.rglob("*") if path.is_file()]
        doomed = beyond(files, cache_bytes)
        size = sum(_size(one) for one in doomed)
        if not dry_run:
            for path in doomed:
                path.unlink(missing_ok=True)
        if doomed:
            yield Freed(f"cache: {len(doomed)} of {len(files)} files", size)
        for folder in beyond(checkpoints, checkpoint_bytes):
            yield from _gone(folder, project, dry_run)


def beyond(paths: Iterable[Path], limit: int) -> list[Path]:
    """Of files and folders those that were used least recently, so that `limit` bytes are left."""
    kept, doomed = 0.0, []
    for path in sorted(paths, key=_last_use, reverse=True):
        kept += _size(path)
        if kept > limit or _is_partial(path):
            doomed.append(path)
    return doomed


def _is_partial(path: Path) -> bool:
    """Whether its writer was killed; nobody writes while the device is ours."""
    return path.suffix == ".tmp"


def _checkpoints(project: Project) -> list[Path]:
    return [path for path in _folders(project.home / "work") if _is_checkpoint(path)]


def _is_checkpoint(folder: Path) -> bool:
    """Whether it is named by the recipe key of a training."""
    return re.fullmatch(rf"[0-9a-f]{{{KEY_DIGITS}}}", folder.name) is not None


def _last_use(path: Path) -> float:
    return max(
        (max(state.st_atime, state.st_mtime) for state in map(_state, _files(path)) if state),
        default=0.0,
    )


# --- slots ---------------------------------------------------------------------------------------


def _bases_in_slots(project: Project, dry_run: bool) -> Iterator[Freed]:
    """Copies of bases that no release in the slot refers to."""
    ours = {
        record.base_model["content_hash"][: release.BASE_DIGITS]
        for model in {name.split("/")[1] for name in project.records.list("releases")}
        for record in release.records(project, model)
    }
    with project.locks.acquire(release.INSTALL_LOCK):
        for place in _slots(project):
            for folder in release.unused_bases(place):
                # A mount may be another project's as well.
                local = place.is_relative_to(project.home)
                if local or folder.name.strip(".").removesuffix(".tmp") in ours:
                    yield from _gone(folder, project, dry_run)


def _slots(project: Project) -> list[Path]:
    """The folders of all slots, also of those that the fleet file no longer has."""
    found = {path for path in (project.home / "fleet" / "slots").glob("*/*") if path.is_dir()}
    for target, settings in load_fleet(project).targets.items():
        for name, config in settings.slots.items():
            found.add(slot.folder(project, target, name, config))
    return sorted(found)


# --- files ---------------------------------------------------------------------------------------


def _gone(folder: Path, project: Project, dry_run: bool) -> Iterator[Freed]:
    """Delete a folder that the caller has alone."""
    inside = folder.is_relative_to(project.home)
    freed = _freed(folder, str(folder.relative_to(project.home) if inside else folder))
    if not dry_run:
        _delete(folder)
    yield freed


def _delete(folder: Path) -> None:
    with suppress(FileNotFoundError):  # who left it has come back, and tidied up
        shutil.rmtree(folder)


def _freed(path: Path, what: str) -> Freed:
    return Freed(what, _size(path))


def _size(path: Path) -> float:
    """Bytes on the disk; a file with several names counts for each in part."""
    return sum(state.st_size / state.st_nlink for state in map(_state, _files(path)) if state)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]


def _state(path: Path) -> Any:
    with suppress(FileNotFoundError):
        return path.stat()


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir())


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
