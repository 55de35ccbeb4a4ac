"""From the data to what rests on it: data versions, adapters, releases, and where these are."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

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
    """A dataset that contains what was asked for: `had`, its items with the paths of their files;
    and the adapters trained on it, with their releases."""

    dataset: Artifact
    had: list[tuple[str, Item]]
    adapters: list[tuple[Artifact, list[ReleaseRecord]]]


@dataclass(frozen=True)
class Asked:
    """What FILE or FILE:LINE names: `items`, and a remark where that may surprise."""

    what: str
    items: list[Item]
    remark: str | None = None

    @property
    def identities(self) -> set[str]:
        return {item.identity for item in self.items}

    @property
    def records(self) -> int:
        """How many records it is; an image is one, whatever other bytes it is known in."""
        several = len({item.line for item in self.items}) > 1
        return len(self.identities) if several else 1


def uses(project: Project, what: str) -> Iterator[str]:
    """Lines that lead from `what`, a file of the data or FILE:LINE, one record in it, to all that
    rests on it, by content: under whatever name, in the data of whichever model.

    UserError when it is neither in the data nor in a dataset of this project's home.
    """
    datasets = read_datasets(project)
    asked = asked_for(project, what, datasets)
    yield from lines(project, asked, datasets, used(project, asked, datasets))


@dataclass(frozen=True)
class Datasets:
    """The datasets in the store, the newest first; of equal ones one.

    `read`: each with its family and its items, with the paths of their files. `unread`: a sentence
    for each that cannot be read here.
    """

    read: list[tuple[Artifact, str, list[tuple[str, Item]]]]
    unread: list[str]


def read_datasets(project: Project) -> Datasets:
    """Reads every dataset of every model, configured or not."""
    store = Store(project)
    lists: dict[str, dict[str, Artifact]] = {}
    made = sorted(store.artifacts(kind="dataset"), key=lambda one: one.manifest["created"])
    distinct = {(one.model, one.content_hash): one for one in made}
    found = Datasets([], [])
    for one in reversed(distinct.values()):
        if one.model not in lists:
            lists[one.model] = contents.file_lists(project, one.model)
        try:
            held = store.open(one.reference())
            found.read.append((held, *contents.read(held, lists[one.model])))
        except UserError as error:
            found.unread.append(str(error))
    return found


def lines(project: Project, asked: Asked, datasets: Datasets, found: list[Use]) -> Iterator[str]:
    """What `used` has found, in words."""
    if asked.records == 1 and asked.items[0].text:
        yield f"{asked.what}: {asked.items[0].text}"
    if asked.remark:
        yield asked.remark
    if not found:
        yield f"{asked.what}: in no dataset"
    for use in found:
        yield f"dataset {use.dataset.key[:12]} of {use.dataset.model}: {_in_words(use.had)}"
        names = sorted({item.told(where) for where, item in use.had} - {asked.what})
        yield from (f"  as {name}" for name in names if asked.records == 1)
        for adapter, releases in use.adapters:
            yield f"  adapter {adapter.key[:12]}"
            for one in releases:
                where = whereabouts(project, one)
                yield f"    release {one.model}@{one.number}{where and f': {where}'}"
    yield from datasets.unread
    yield from _deleted(project)


def asked_for(project: Project, what: str, datasets: Datasets) -> Asked:
    """The items that `what` names: those of the file as it is now. For a deleted file, or one
    without a sound record in that line, the newest dataset that contains it decides.

    UserError as of `uses`.
    """
    path, line = _parted(project, what)
    now = _there_now(project, path, line, datasets)
    named = [
        (dataset, found)
        for dataset, _, items in datasets.read
        if (found := [item for where, item in items if _is(where, item, path, line)])
    ]
    if not now and not named:
        raise UserError(
            f"{what}: neither the data nor a dataset in {project.home} has it; name it from the "
            "project's folder, a record as data/letters/letters.jsonl:12"
        )
    if not now:
        return Asked(what, named[0][1])
    remark = None
    single = line is not None or len({item.line for item in now}) == 1
    if named and single and not {i.identity for i in now} & {i.identity for i in named[0][1]}:
        dataset, [other, *_] = named[0]
        remark = (
            f"warning: in dataset {dataset.key[:12]} of {dataset.model}, the newest that has it, "
            f"{what} is {f'another record: {other.text}' if other.text else 'another image'}"
        )
    return Asked(what, now, remark)


def used(project: Project, asked: Asked, datasets: Datasets) -> list[Use]:
    """Each dataset that contains something that was asked for, with what rests on it."""
    found = []
    for dataset, _, items in datasets.read:
        if had := [(where, item) for where, item in items if item.identity in asked.identities]:
            found.append(Use(dataset, had, _rest_on(project, dataset)))
    return found


def _is(where: str, item: Item, path: str, line: int | None) -> bool:
    """Whether an item of a dataset is what was asked for. Where the list of files was deleted, its
    name may lack the ending."""
    return where in (path, str(PurePosixPath(path).with_suffix(""))) and line in (None, item.line)


def _there_now(project: Project, path: str, line: int | None, datasets: Datasets) -> list[Item]:
    """What the file holds as it is, by the models whose data it is; nothing without such a file."""
    file = spelled_as_on_disk(project.root / path)
    found: list[Item] = []
    refused = None
    for config in models(project)[0].values():
        folder = PurePosixPath(config.data.path)
        if not file.is_file() or not PurePosixPath(path).is_relative_to(folder):
            continue
        name = PurePosixPath(path).relative_to(folder).as_posix()
        alike = [one.path for one, kind, _ in datasets.read if kind == config.family]
        plug = family(config.family).shows.functions
        try:
            read = plug.file_items(file, name, config.data, alike)
            found += [item for item in read if line in (None, item.line)]
        except UserError as error:
            refused = error
    if refused and not found:
        raise refused
    return found


def _parted(project: Project, what: str) -> tuple[str, int | None]:
    """(path below the project, line)."""
    named = RECORD.fullmatch(what)
    path, line = (named[1], int(named[2])) if named else (what, None)
    below = project.inside(path, "FILE").relative_to(project.root)
    return same_form(below.as_posix()), line


def _deleted(project: Project) -> Iterator[str]:
    """How many datasets were deleted, of which nobody knows the content any more."""
    store = Store(project)
    for folder in sorted(store.memory.glob("*/dataset")):
        known = store.known(folder.parent.name, "dataset")
        there = {one.content_hash for one in known if store.holds(one)}
        if gone := {one.content_hash for one in known} - there:
            many = "1 deleted dataset" if len(gone) == 1 else f"{len(gone)} deleted datasets"
            yield f"{folder.parent.name}: {many} could not be searched"


def _in_words(had: list[tuple[str, Item]]) -> str:
    counts = Counter(split for split, _ in {(item.split, item.identity) for _, item in had})
    return ", ".join(
        f"{counts[split]} in its {name} split" for split, name in SPLITS.items() if counts[split]
    )


def _rest_on(project: Project, dataset: Artifact) -> list[tuple[Artifact, list[ReleaseRecord]]]:
    releases: dict[str, list[ReleaseRecord]] = defaultdict(list)
    for one in release.records(project, dataset.model):
        releases[one.adapter["key"]].append(one)
    return [
        (adapter, releases[adapter.key])
        for adapter in Store(project).known(dataset.model, "lora_weights")
        if adapter.manifest["recipe"]["inputs"].get("dataset") == dataset.content_hash
    ]


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
            told.append(f"loaded as standby on {target}")
    return ", ".join(told)
