"""From the data to what rests on it: data versions, adapters, releases, and where these are."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from adire_assets.config.model import models
from adire_assets.core.errors import UserError
from adire_assets.core.family import family
from adire_assets.core.file_names import same_form, spelled_as_on_disk
from adire_assets.core.project import Project
from adire_assets.core.shown import Item
from adire_assets.core.splits import SPLITS
from adire_assets.core.store import Artifact, Store
from adire_assets.gates import contents
from adire_assets.serving import record, release
from adire_assets.serving.release import ReleaseRecord

RECORD = re.compile(r"(.+):([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Use:
    """A dataset that has what was asked for: `had`, with where their files are; and the adapters
    that are trained on it, with their releases."""

    dataset: Artifact
    had: list[tuple[str, Item]]
    adapters: list[tuple[Artifact, list[ReleaseRecord]]]


def uses(project: Project, what: str) -> Iterator[str]:
    """Lines that lead from `what`, a file of the data or FILE:LINE, one record in it, to all that
    rests on it, by content: under whatever name, in the data of whichever model.

    UserError when it is neither in the data nor in a dataset of this project's home.
    """
    content, found = used(project, what)
    yield from lines(project, what, content, found)


def lines(project: Project, what: str, content: set[str], found: list[Use]) -> Iterator[str]:
    """What `used` has found, in words."""
    if not found:
        yield f"{what}: in no dataset"
    for use in found:
        yield f"dataset {use.dataset.key[:12]} of {use.dataset.model}: {_in_words(use.had)}"
        names = sorted({item.told(where) for where, item in use.had} - {what})
        yield from (f"  there it is {name}" for name in names if len(content) == 1)
        for adapter, releases in use.adapters:
            yield f"  adapter {adapter.key[:12]}"
            for one in releases:
                where = whereabouts(project, one)
                yield f"    release {one.model}@{one.number}{where and f': {where}'}"
    yield from _unsearched(project)


def used(project: Project, what: str) -> tuple[set[str], list[Use]]:
    """(the identities of `what`, each dataset that has one of them).

    A file that is there counts as it is now; one that is gone as in the newest dataset that has it.
    UserError as of `uses`.
    """
    path, line = _parted(project, what)
    datasets = [(one, contents.items(project, one)) for one in _datasets(project)]
    asked = _there_now(project, path, line)
    if asked is None:
        named = (
            {i.identity for where, i in items if _is(where, i, path, line)} for _, items in datasets
        )
        asked = next(filter(None, named), set())
    if not asked:
        raise UserError(
            f"{what}: neither the data nor a dataset in {project.home} has it; name it from the "
            "project's folder, as data/indigo/x.png, or a record as data/letters/letters.jsonl:12"
        )
    found = []
    for dataset, items in datasets:
        if had := [(where, item) for where, item in items if item.identity in asked]:
            found.append(Use(dataset, had, _rest_on(project, dataset)))
    return asked, found


def _is(where: str, item: Item, path: str, line: int | None) -> bool:
    """Whether an item of a dataset is what was asked for. Where the list of files was deleted, its
    name may lack the ending."""
    return where in (path, str(PurePosixPath(path).with_suffix(""))) and line in (None, item.line)


def _there_now(project: Project, path: str, line: int | None) -> set[str] | None:
    """What the file holds as it is, by the models whose data it is; None without such a file."""
    file = spelled_as_on_disk(project.root / path)
    found = None
    for config in models(project)[0].values():
        folder = PurePosixPath(config.data.path)
        if file.is_file() and PurePosixPath(path).is_relative_to(folder):
            name = PurePosixPath(path).relative_to(folder).as_posix()
            read = family(config.family).shows.functions.identities(file, name, config.data)
            found = (found or set()) | {one for at, one in read if line in (None, at)}
    return found


def _parted(project: Project, what: str) -> tuple[str, int | None]:
    """(path below the project, line)."""
    named = RECORD.fullmatch(what)
    path, line = (named[1], int(named[2])) if named else (what, None)
    below = project.inside(path, "FILE").relative_to(project.root)
    return same_form(below.as_posix()), line


def _datasets(project: Project) -> list[Artifact]:
    """The datasets in the store, the newest first; of equal ones one."""
    store = Store(project)
    made = sorted(store.artifacts(kind="dataset"), key=lambda one: one.manifest["created"])
    found = {(one.model, one.content_hash): one for one in made}
    return [store.open(one.reference()) for one in reversed(found.values())]


def _unsearched(project: Project) -> Iterator[str]:
    """How many datasets were deleted, of which nobody knows the content any more."""
    store = Store(project)
    for folder in sorted(store.memory.glob("*/dataset")):
        known = store.known(folder.parent.name, "dataset")
        there = {one.content_hash for one in known if store.holds(one)}
        if gone := {one.content_hash for one in known} - there:
            yield f"{folder.parent.name}: {len(gone)} deleted datasets could not be searched"


def _in_words(had: list[tuple[str, Item]]) -> str:
    counts = Counter(item.split for _, item in had)
    return ", ".join(
        f"{counts[split]} in its {name} split" for split, name in SPLITS.items() if counts[split]
    )


def _rest_on(project: Project, dataset: Artifact) -> list[tuple[Artifact, list[ReleaseRecord]]]:
    releases: dict[str, list[ReleaseRecord]] = defaultdict(list)
    for one in release.records(project, dataset.model):
        releases[one.adapter["content_hash"]].append(one)
    return [
        (adapter, releases[adapter.content_hash])
        for adapter in Store(project).known(dataset.model, "lora_weights")
        if _inputs(adapter).get("dataset") == dataset.content_hash
    ]


def _inputs(artifact: Artifact) -> Mapping[str, Any]:
    return artifact.manifest["recipe"]["inputs"]


def whereabouts(project: Project, one: ReleaseRecord) -> str:
    """Where a release answers, or may again; "" for nowhere."""
    told = []
    for target in record.targets(project, one.model):
        state = record.read(project, target, one.model)
        if state.live == one.number:
            told.append(f"live on {target}")
        elif state.rollout and state.rollout.number == one.number:
            told.append(f"in a rollout on {target}")
        elif one.number in state.slots.values():
            told.append(f"held on {target} for the way back")
    return ", ".join(told)
