"""From the data to what rests on it: data versions, adapters, releases, and where these are."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from adire_assets.config.model import family_of
from adire_assets.core.errors import UserError
from adire_assets.core.family import family
from adire_assets.core.file_names import same_form
from adire_assets.core.project import Project
from adire_assets.core.shown import Item
from adire_assets.core.splits import SPLITS
from adire_assets.core.store import Artifact, Store
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

    UserError when no data version of this project's home has it.
    """
    content, found = used(project, what)
    one = len(content) == 1
    for use in found:
        yield f"dataset {use.dataset.key[:12]} of {use.dataset.model}: {_in_words(use.had)}"
        names = sorted({_place(where, item) for where, item in use.had} - {what})
        yield from (f"  there it is {name}" for name in names if one)
        for adapter, releases in use.adapters:
            yield f"  adapter {adapter.key[:12]}"
            for number in releases:
                where = whereabouts(project, number)
                yield f"    release {number.model}@{number.number}{where and f': {where}'}"


def used(project: Project, what: str) -> tuple[set[str], list[Use]]:
    """(the identities of `what`, each dataset that has one of them), as `uses` tells them."""
    path, line = _parted(project, what)
    datasets = list(_datasets(project))
    # By the newest version that has it: what is in the file by now may never have been used.
    asked: set[str] = set()
    for _, items in datasets:
        here = {i.identity for where, i in items if where == path and line in (None, i.line)}
        asked = asked or here
    if not asked:
        raise UserError(
            f"{what}: no dataset in {project.home} has it; name it as below the project's folder, "
            "such as data/indigo/x.png, a record as data/letters/letters.jsonl:12"
        )
    found = []
    for dataset, items in datasets:
        if had := [(where, item) for where, item in items if item.identity in asked]:
            found.append(Use(dataset, had, _rest_on(project, dataset)))
    return asked, found


def _parted(project: Project, what: str) -> tuple[str, int | None]:
    """(path below the project, line)."""
    named = RECORD.fullmatch(what)
    path, line = (named[1], int(named[2])) if named else (what, None)
    below = project.inside(path, "FILE").relative_to(project.root)
    return same_form(below.as_posix()), line


def _datasets(project: Project) -> Iterator[tuple[Artifact, list[tuple[str, Item]]]]:
    """Each dataset in the store, the newest first, with its items and where their files are; of one
    whose training_data is deleted only their names in the folder of the data are known."""
    store = Store(project)
    read = {one.content_hash: one for one in store.artifacts(kind="training_data")}
    made = [(one.manifest["created"], one.name, one) for one in store.artifacts(kind="dataset")]
    for _, _, listed in sorted(made, reverse=True):
        dataset = store.open(listed.reference())
        if (data := read.get(dataset.manifest["recipe"]["inputs"]["training_data"])) is not None:
            told, files = data.json("data.json"), data.json("files.json")
            plug, folder = family(told["family"]), PurePosixPath(told["data"]["path"])
        else:
            files, plug, folder = {}, family_of(project, dataset.model), PurePosixPath("(unknown)")
        items = plug.shows.functions.items(dataset.path, files)
        yield dataset, [(same_form((folder / item.file).as_posix()), item) for item in items]


def _place(where: str, item: Item) -> str:
    return where if item.line is None else f"{where}:{item.line}"


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
